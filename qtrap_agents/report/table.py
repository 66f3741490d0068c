"""The look of every table in the reports."""

from rich import box
from rich.console import Console
from rich.table import Table


def new_table(title: str | None = None) -> Table:
    """A table without frame, a line below its headings."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.show_edge = table.pad_edge = False
    return table


def print_table(table: Table, console: Console) -> None:
    """A table with an empty line below."""
    console.print(table)
    console.print()
