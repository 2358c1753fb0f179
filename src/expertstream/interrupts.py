"""Ctrl-C: the message and the exit code that it ends the program with, also while modules are imported."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

INTERRUPTED: Final = 130
_GO_ON: Final = ("sweep", "search", "recommend", "reproduce")  # commands that go on where they were


@contextmanager
def importing() -> Iterator[None]:
    """Within it, Ctrl-C ends this program, its script or ``python -m``, at once and with the message of later ones.

    KeyboardInterrupt is not raised: C extensions that are being imported make other errors of it. Where another program
    imports the package, or does something else at Ctrl-C, nothing is changed.
    """

    def end(_: int, __: object) -> None:
        os.write(2, f"error: {interruption(sys.argv[1:])}\n".encode())
        os._exit(INTERRUPTED)

    ours = Path(sys.argv[0]).stem in ("-m", "__main__", "expertstream")
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interruption(arguments: Sequence[str]) -> str:
    """What is said of a command that was interrupted, given its arguments."""
    more = "; the same command goes on where it was" if {*arguments[:1]} & {*_GO_ON} else ""
    return f"interrupted; no file was left half-written{more}"
