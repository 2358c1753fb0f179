"""The tutorial runs as it stands: files are written, commands and Python run in order."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from docs.generate.blocks import ROOT
from expertstream.cli.main import run

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def _run_sh(text: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for line in text.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "expertstream", line
            assert run(arguments) == 0, line
    return out.getvalue()


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = ""
    for kind, file, text in BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text()):
        if file:
            Path(file).write_text(text)
        elif kind == "sh":
            shown += _run_sh(text)
        elif kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(text, "tutorial", "exec"), names)
            shown += out.getvalue()
        else:
            assert kind == "console", kind
    for wanted in ("all.html", "run.html", "trace.parquet", "capture.npz", "my-sweep"):
        assert Path(wanted).exists(), wanted
    assert "SYNTHETIC" in shown
    assert "64 tokens: " in shown
    assert "(DDR)" in shown
    assert "(compute)" in shown
    assert "6 points (6 run now)" in shown
    assert "coldest-first" in shown
    assert shown.count("proven: ") == 1
