"""Optuna's journal of a search: safe against kill -9, a full disk and a damaged file."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, Final

from expertstream.errors import ConfigError

JOURNAL: Final = "journal.log"


def open_study(optuna: Any, folder: Path, directions: list[str]) -> Any:
    """The study whose journal is in ``folder``, which this process has for itself (``Shards`` locks it).

    A last line that was cut off is dropped. A journal that cannot be read otherwise is set aside: trials are drawn from
    their own numbers and rows are kept elsewhere, so that the same trials come again and none is simulated twice.
    """
    file = folder / JOURNAL
    try:
        return _open(optuna, file, directions)
    except (ValueError, KeyError, AssertionError):  # a line that is not what was written; what Optuna raises of others
        file.replace(file.with_suffix(".damaged"))
        return _open(optuna, file, directions)


def _open(optuna: Any, file: Path, directions: list[str]) -> Any:
    if file.exists():
        content = file.read_bytes()
        if not content.endswith(b"\n"):
            with file.open("r+b") as opened:
                opened.truncate(content.rfind(b"\n") + 1)
    storage = optuna.storages.JournalStorage(_Journal(file))
    return optuna.create_study(storage=storage, study_name="search", directions=directions, load_if_exists=True)


class _Journal:
    """A file of Optuna's logs, each line with a checksum of it and of all before it.

    So a line that was changed, lost or repeated is found; Optuna would go on another way without a word. Lines reach
    the system at once, so that kill -9 loses none; those that a loss of power takes come again from rows.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        self._path, self._sum = file, 0
        self._logs: list[bytes] = []
        for line in file.read_bytes().splitlines() if file.exists() else ():
            log, _, mark = line.rpartition(b"\t")
            if self._mark(log) != mark:
                raise ValueError(f"line {len(self._logs) + 1} of '{file}' is damaged")
            self._logs.append(log)

    def _mark(self, log: bytes) -> bytes:
        self._sum = zlib.crc32(log, self._sum)
        return b"%08x" % self._sum

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return [json.loads(log) for log in self._logs[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        new = [json.dumps(log, separators=(",", ":")).encode() for log in logs]
        try:
            _append(self._path, b"".join(log + b"\t" + self._mark(log) + b"\n" for log in new))
        except OSError as error:
            raise ConfigError(
                f"cannot write '{self._path}': {error.strerror or error}; all finished rows are safe, run the same "
                "command again to go on"
            ) from None
        self._logs += new


def _append(file: Path, text: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(text)
