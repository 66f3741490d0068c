"""`qtrap doctor` on a terminal: one line per check, the remedy below it."""

from typing import Any

from rich.console import Console
from rich.text import Text

from qtrap_agents.doctor import Check, Diagnosis
from qtrap_agents.report.format import plain

STYLES = {"ok": "green", "warn": "yellow", "missing": "bold red"}


def render_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print all checks and whether qtrap can run here."""
    width = max(len(check.name) for check in diagnosis.checks)
    for check in diagnosis.checks:
        _render_check(check, width, console)
    console.print()
    console.print(plain("qtrap can run here" if diagnosis.ok else "something that qtrap needs is missing: see above"))


def diagnosis_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The checks as JSON types."""
    return diagnosis.model_dump(mode="json") | {"ok": diagnosis.ok}


def _render_check(check: Check, width: int, console: Console) -> None:
    style = "yellow" if check.state == "missing" and not check.needed else STYLES[check.state]
    line = Text(f"{check.state:<8}", style=style).append_text(plain(f"{check.name:<{width}}  "))
    optional = " (optional)" if check.state == "missing" and not check.needed else ""
    console.print(line.append_text(plain(check.detail + optional)), soft_wrap=True)
    if check.remedy is not None:
        console.print(plain(f"{'':8}{'':{width}}  fix: {check.remedy}", style="dim"), soft_wrap=True)
