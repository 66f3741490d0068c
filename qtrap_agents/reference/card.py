"""Write the model card and the checksums of the shipped reference models.

    python -m qtrap_agents.reference.card qtrap_agents/reference/evaluation.jsonl

Reads what was measured (`evaluation.jsonl`, lines of `qtrap_agents.reference.evaluate`; `training.json` beside each FP16
checkpoint) and writes `MODEL_CARD.md` and `checkpoints/checksums.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from qtrap_agents.analysis.statistics import wilson
from qtrap_agents.backends.checkpoint import file_sha256
from qtrap_agents.paths import REFERENCE_CHECKPOINTS
from qtrap_agents.reference.data import FAMILIES

HERE = Path(__file__).parent


def checksums() -> dict[str, str]:
    """SHA-256 of every shipped weight file, by path relative to the checkpoints."""
    files = sorted(REFERENCE_CHECKPOINTS.rglob("*.safetensors"))
    return {file.relative_to(REFERENCE_CHECKPOINTS).as_posix(): file_sha256(file) for file in files}


def card(rows: list[dict[str, Any]]) -> str:
    """The model card as Markdown."""
    text = (HERE / "model_card_head.md").read_text()
    text += "\n## Success per hop\n\nRight parents given; % of hops [95 % Wilson interval].\n\n" + _table(rows, "hops")
    text += "\n## Success of whole chains\n\n32 hops on the model's own statements; % of chains [95 % Wilson interval].\n\n"
    text += _table(rows, "chains") + "\n## Training\n\n" + _training()
    return text + "\n## Checksums (SHA-256)\n\n" + "".join(f"- `{path}` {digest}\n" for path, digest in checksums().items())


def _table(rows: list[dict[str, Any]], kind: str) -> str:
    lines = ["| model and seed | arm | n | " + " | ".join(FAMILIES) + " |", "|---|---|---|" + "---|" * len(FAMILIES)]
    for row in rows:
        model, arm = row["checkpoint"].split("/")
        cells = [_cell(row[family][f"{kind}_right"], row[family][kind]) for family in FAMILIES]
        lines.append(f"| {model} | {arm} | {row[FAMILIES[0]][kind]:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(right: int, total: int) -> str:
    interval = wilson(right, total)
    low, high = interval.low or 0.0, interval.high if interval.high is not None else 1.0
    return f"{100 * right / total:.2f} [{100 * low:.1f}, {100 * high:.1f}]"


def _training() -> str:
    text = ""
    for size in sorted(path.parent.parent.name for path in REFERENCE_CHECKPOINTS.glob("*/fp16/training.json")):
        report = json.loads((REFERENCE_CHECKPOINTS / size / "fp16" / "training.json").read_text())
        loss = report["curve"][-1]["loss"]
        text += (
            f"- `{size}`: {report['parameters']:,} parameters, shipped seed {report['seed']}, stage {report['stage']} took "
            f"{report['seconds']:.0f} s on a shared {report['device']} (torch {report['torch']}), last loss {loss}.\n"
        )
    return text


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.evaluation.read_text().splitlines()]
    (HERE / "MODEL_CARD.md").write_text(card(rows))
    (REFERENCE_CHECKPOINTS / "checksums.json").write_text(json.dumps(checksums(), indent=1) + "\n")


if __name__ == "__main__":
    main()
