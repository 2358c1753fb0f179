"""Entry of the ``expertstream`` program: exit codes and messages.

0: done; 1: a check of ``doctor`` failed, or nobody reads the output any more; 2: the input is wrong; 130: interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from expertstream.interrupts import INTERRUPTED, importing, interruption

BAD_INPUT = 2
_NEEDED: Final = {  # by pydantic's types of errors
    "int_parsing": "it must be a whole number",
    "float_parsing": "it must be a number",
    "greater_than_equal": "it must be at least {ge}",
    "less_than_equal": "it must be at most {le}",
}


def main() -> None:
    """Run the program on the command line's arguments and exit."""
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        # None where who started the program has closed it
        sys.stdout, sys.stderr = sys.stdout or nothing, sys.stderr or nothing
        sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code. Mistakes of the user become one message on stderr."""
    with importing():
        import typer

        from expertstream.cli.app import app
        from expertstream.errors import ExpertStreamError
    usage_error: type[Exception] = typer.BadParameter.__mro__[2]  # click's base class, wherever typer keeps it
    try:
        code = app(list(arguments), prog_name="expertstream", standalone_mode=False)
        sys.stdout.flush()
    except ExpertStreamError as error:
        return _say(str(error), error.exit_code)
    except usage_error as error:
        return _say(_of_usage(error), BAD_INPUT)
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
        return _say(interruption(arguments), INTERRUPTED)
    return _say(interruption(arguments), INTERRUPTED) if code == INTERRUPTED else int(code or 0)


def _of_usage(error: Any) -> str:
    """A message of Typer's with what was given, what is allowed and what to do; some of its own lack the first."""
    cause, option = error.__cause__, getattr(error, "param", None)
    if option is None or not hasattr(cause, "errors"):
        message: str = error.format_message()
        if not message:  # the help has been shown
            return ""
        message += "" if message.endswith((".", "?")) else "."
        return f"{message} See: {error.ctx.command_path} --help" if error.ctx else message
    wrong = cause.errors()[0]
    allowed = _NEEDED.get(wrong["type"], wrong["msg"][:1].lower() + wrong["msg"][1:])
    name = max(option.opts, key=len) if option.opts[0].startswith("-") else option.human_readable_name
    number = isinstance(option.default, (int, float)) and not isinstance(option.default, bool)
    example = f", such as {name} {option.default}" if number else ""
    return f"{name} is '{wrong['input']}'; {allowed.format(**wrong.get('ctx', {}))}{example}"


def _drop_output() -> None:
    """Let what is still to be printed go nowhere, so that the end of the program does not fail in its turn."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, code: int) -> int:
    if message.strip():
        print(f"error: {message}", file=sys.stderr)
    return code
