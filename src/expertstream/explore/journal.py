"""Optuna's journal of a search: safe against kill -9 and a full disk."""

from __future__ import annotations

import json
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
    except (ValueError, KeyError, AssertionError):  # what Optuna raises where lines are damaged
        file.replace(file.with_suffix(".damaged"))
        return _open(optuna, file, directions)


def _open(optuna: Any, file: Path, directions: list[str]) -> Any:
    if file.exists():
        content = file.read_bytes()
        if not content.endswith(b"\n"):
            with file.open("r+b") as opened:
                opened.truncate(content.rfind(b"\n") + 1)
    storage = optuna.storages.JournalStorage(_Journal(optuna, file))
    return optuna.create_study(storage=storage, study_name="search", directions=directions, load_if_exists=True)


class _Journal:
    """Optuna's journal file without its lock, which a killed process would leave behind, or its fsync per line.

    Lines reach the system at once, so that kill -9 loses none; those that a loss of power takes come again from rows.
    """

    def __init__(self, optuna: Any, file: Path) -> None:
        self._path = file
        self._file = optuna.storages.journal.JournalFileBackend(str(file))

    def read_logs(self, log_number_from: int) -> Any:
        return self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            _append(self._path, "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs))
        except OSError as error:
            raise ConfigError(
                f"cannot write '{self._path}': {error.strerror or error}; all finished rows are safe, run the same "
                "command again to go on"
            ) from None


def _append(file: Path, text: str) -> None:
    with file.open("a", encoding="utf-8") as opened:
        opened.write(text)
