"""Progress of a run on stderr: a bar per arm with tasks per second and failures."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RunProgress:
    """Bars on a terminal, one line per arm elsewhere. Use as a context manager."""

    def __init__(self, console: Console):
        self.console = console
        self._failures: dict[str, int] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} {task.fields[failures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "RunProgress":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def starting(self, arm: str) -> None:
        """A bar that waits for the arm."""
        self._failures[arm] = 0
        self._bars[arm] = self._progress.add_task(arm, total=None, rate="starting", failures="")

    def ready(self, arm: str, startup_s: float, total: int, done: int) -> None:
        """The bar starts to count."""
        self._progress.reset(self._bars[arm], total=total, completed=done, rate="", failures="")
        if not self.console.is_terminal:
            self.console.print(f"{arm}: ready after {startup_s:.0f} s, {total - done} of {total} tasks to run", highlight=False)

    def advance(self, arm: str, failed: bool) -> None:
        """One more trace."""
        self._failures[arm] += failed
        bar = self._bars[arm]
        speed = self._progress.tasks[self._progress.task_ids.index(bar)].speed
        failures = f"· {self._failures[arm]} failed" if self._failures[arm] else ""
        self._progress.update(bar, advance=1, rate=f"{speed:,.1f} tasks/s" if speed else "", failures=failures)


class HopProgress:
    """One bar over simulated hops on a terminal, nothing elsewhere. Use as a context manager."""

    def __init__(self, hops: int, console: Console | None = None):
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("simulating"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task("hops", total=hops)

    def __enter__(self) -> "HopProgress":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, hops: int) -> None:
        """So many more hops are done."""
        self._progress.update(self._bar, advance=hops)
