"""Thresholds of premise extraction on the real GSM8K test split, and the check itself on texts with known outcomes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import extraction_check
import pytest
from extraction_check import Problem

TEST_SPLIT = Path(os.environ.get("QTRAP_GSM8K") or Path(__file__).parents[3] / "shared" / "data" / "gsm8k_test.jsonl")

SOLUTIONS = (
    ("A hen lays 16 eggs. Three are eaten, four baked, the rest sold at $2. What is earned?",
     "She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nShe earns 9 * 2 = $<<9*2=18>>18.\n#### 18"),
    ("Two bolts and half as many. How many?", "It takes 2/2=<<2/2=1>>1 bolt.\nThe total is 2+1=<<2+1=3>>3.\n#### 3"),
)  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "gsm8k.jsonl"
    rows = (json.dumps({"question": question, "answer": answer}) for question, answer in SOLUTIONS)
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_plain_solutions_are_found_whole(small: Path) -> None:
    shares = extraction_check.check(extraction_check.problems(small)).shares
    assert {name: tuple(share) for name, share in shares.items()} == dict.fromkeys(shares, (4, 4))


def test_what_is_not_stated_is_not_found(small: Path) -> None:
    """The check sees errors: a step left out, a number that is no step, a value at another place."""
    first, second = extraction_check.problems(small)
    text = first.text.replace("She sells 16 - 3 - 4 = 9 eggs.", "So there are 5 of them.")
    place = (text.index("18"), text.index("18") + 2)
    found = extraction_check.check([Problem(first.task, text, (None, place)), second._replace(places=((0, 1), second.places[1]))])
    assert {name: tuple(share) for name, share in found.shares.items()} == {
        "recall": (2, 4), "aligned right": (2, 3), "marked steps": (2, 4), "true steps": (3, 4),
    }  # fmt: skip
    assert len(found.worst) == 4


def test_the_command_prints_counts(small: Path) -> None:
    script = Path(extraction_check.__file__)
    done = subprocess.run([sys.executable, script, small, "--json"], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["recall"]["hits"] == found["recall"]["n"] == 4
    assert {"shuffled", "numbered", "paragraph", "spoken", "perturbed, exactly", "invented"} <= set(found)


@pytest.mark.skipif(not TEST_SPLIT.is_file(), reason=f"no GSM8K file at {TEST_SPLIT}; set QTRAP_GSM8K to one")
def test_the_test_split() -> None:
    found = extraction_check.problems(TEST_SPLIT)
    shares = extraction_check.check(found).shares
    assert shares["recall"].n > 4_000
    for name in ("recall", "aligned right", "true steps"):
        assert shares[name].hits / shares[name].n >= 0.97, name
    assert shares["marked steps"].hits / shares["marked steps"].n >= 0.96
    some = found[::8]
    for name, share in (extraction_check.disturbed(some).shares | extraction_check.perturbed(some).shares).items():
        assert share.hits / share.n >= 0.97, name
    invented = extraction_check.invented(some, others=2).shares["invented"]
    assert invented.hits / invented.n <= 0.04
