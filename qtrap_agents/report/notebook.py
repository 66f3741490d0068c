"""What a notebook shows: a report as text in a terminal and as a table in a cell."""

import io
from collections.abc import Callable

from rich.console import Console

from qtrap_agents.report.comparison import RunComparison
from qtrap_agents.report.comparison_view import render_comparison
from qtrap_agents.report.progress import RunProgress

WIDTH = 120


class Shown:
    """A rendered report; `report` holds its numbers."""

    def __init__(self, report: RunComparison) -> None:
        self.report = report

    def __str__(self) -> str:
        return _text(lambda console: render_comparison(self.report, console))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same with its colours, for a cell."""
        console = Console(width=WIDTH, file=io.StringIO(), record=True, force_jupyter=False)
        render_comparison(self.report, console)
        form = "<pre style='line-height: 1.2; font-family: monospace'>{code}</pre>"
        return console.export_html(inline_styles=True, code_format=form)


def progress(shown: bool) -> RunProgress:
    """A progress bar on stderr, or one that nobody sees."""
    return RunProgress(Console(stderr=True) if shown else Console(file=io.StringIO()))


def _text(render: Callable[[Console], None]) -> str:
    console = Console(width=WIDTH, file=io.StringIO(), force_jupyter=False)
    render(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
