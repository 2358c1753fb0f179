"""Entry of the ``expertstream`` program: exit codes and messages.

0: done; 1: a check of ``doctor`` failed, or nobody reads the output any more; 2: the input is wrong; 130: interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

BAD_INPUT, INTERRUPTED = 2, 130


def main() -> None:
    """Run the program on the command line's arguments and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code. Mistakes of the user become one message on stderr."""
    try:
        # imported here so that Ctrl-C during the imports ends as cleanly as later
        import typer

        from expertstream.cli.app import app
        from expertstream.errors import ExpertStreamError

        usage_error: type[Exception] = typer.BadParameter.__mro__[2]  # click's base class, wherever typer keeps it
    except KeyboardInterrupt:
        return _interrupted()
    try:
        code = app(list(arguments), prog_name="expertstream", standalone_mode=False)
        sys.stdout.flush()
    except ExpertStreamError as error:
        return _say(str(error), error.exit_code)
    except usage_error as error:
        return _say(error.format_message(), BAD_INPUT)  # type: ignore[attr-defined]
    except MemoryError:
        return _say("not enough memory for this; use fewer tokens, requests or layers", BAD_INPUT)
    except BrokenPipeError:  # the reader, such as "head", has seen enough
        _drop_output()
        return 1
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _drop_output()
        return _say(f"cannot write the output: {error.strerror}", BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    return _interrupted() if code == INTERRUPTED else int(code or 0)


def _drop_output() -> None:
    """Let what is still to be printed go nowhere, so that the end of the program does not fail in its turn."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, code: int) -> int:
    if message.strip():
        print(f"error: {message}", file=sys.stderr)
    return code


def _interrupted() -> int:
    return _say("interrupted; no file was left half-written", INTERRUPTED)
