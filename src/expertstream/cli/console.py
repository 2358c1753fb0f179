"""Output: tables on stdout, progress and remarks on stderr."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from expertstream.engine import kernel
from expertstream.files import to_json

PIPE_WIDTH = 130  # columns where the output is no terminal
QUIET_S = 2.0  # work shorter than this shows no progress


class Report(Protocol):
    """Takes the state of long work."""

    def __call__(self, done: int, total: int, what: str) -> None: ...  # noqa: D102


def stdout() -> Console:
    """Console of results."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)


def remark(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Machine output; nothing else goes to stdout."""
    sys.stdout.write(to_json(value))


def table(title: str, columns: list[str], rows: list[list[str]], *, left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and whose others are numbers."""
    out = Table(title=title or None, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        out.add_column(column, justify="left" if number < left else "right")
    for row in rows:
        out.add_row(*row)
    return out


def facts(title: str, rows: list[list[str]]) -> Table:
    """A table of names and their values."""
    out = table(title, ["", ""], rows, left=2)
    out.show_header = False
    return out


@contextmanager
def progress(label: str) -> Iterator[Report]:
    """A bar on stderr (terminals only) once the work has taken more than two seconds."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    task = bar.add_task(label, total=None)
    timer = threading.Timer(QUIET_S, bar.start)
    timer.daemon = True

    def report(done: int, total: int, what: str) -> None:
        bar.update(task, completed=done, total=total, description=f"{label}: {what}")

    timer.start()
    try:
        yield report
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def announce_compilation() -> None:
    """Say on stderr that the event kernel is going to be compiled, if it is."""
    compiled: Any = kernel.advance
    if not hasattr(compiled, "stats") or compiled.signatures:  # compilation is switched off, or done
        return
    folder = compiled.stats.cache_path
    if folder is None:
        remark("compiling the event kernel (no folder for Numba's cache is writable; set NUMBA_CACHE_DIR) ...")
    elif not _is_cached(Path(folder)):
        remark("compiling the event kernel (first run only) ...")


def _is_cached(folder: Path) -> bool:
    written = Path(kernel.__file__).stat().st_mtime
    return any(index.stat().st_mtime >= written for index in folder.glob("kernel.advance-*.nbi"))
