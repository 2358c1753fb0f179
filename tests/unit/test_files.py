"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from expertstream.errors import ConfigError, TraceError
from expertstream.files import check_writable, replacing, to_json, write_json


def test_json_has_no_nan() -> None:
    assert json.loads(to_json({"a": [float("nan"), float("inf"), 1.5], "b": (1, None)})) == {
        "a": [None, None, 1.5],
        "b": [1, None],
    }


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    write_json([1], path)
    assert path.read_text() == "[\n  1\n]\n"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_durable_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "a.txt", []

    def fsync(number: int) -> None:
        seen.append(("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file", path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(path, durable=True) as temporary:
        temporary.write_text("kept")
    assert seen == [("file", False), ("folder", True)]
    write_json([1], path)
    assert len(seen) == 2


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    write_json([1], tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "a.json").read_text()) == [1]


def test_a_device_is_not_replaced() -> None:
    write_json([1], os.devnull)
    assert Path(os.devnull).is_char_device()


def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write_json([1], pipe)
        assert read.result() == "[\n  1\n]\n"
    assert pipe.is_fifo()


def test_a_pipe_without_a_name_is_written() -> None:
    """As /dev/stdout is: a link to what is no path."""
    reading, writing = os.pipe()
    try:
        write_json([1], f"/dev/fd/{writing}")
        assert os.read(reading, 100) == b"[\n  1\n]\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_reader_of_a_pipe_may_leave() -> None:
    """Not a mistake of the user: the command line ends without a message."""

    def fail() -> None:
        with replacing(os.devnull):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        fail()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_device() -> None:
    with pytest.raises(ConfigError, match=r"^cannot write '/dev/full': No space left on device$"):
        write_json([1], "/dev/full")


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the block that ends last
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_itself_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "a.json")
    write_json([1], tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "[\n  1\n]\n"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it is a folder; give the name of a file$"):
        check_writable(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no folder '.*none'; create it first$"):
        check_writable(tmp_path / "none" / "a.json")
    with pytest.raises(ConfigError, match=r"^cannot write 'x+.json': File name too long$"):
        check_writable("x" * 300 + ".json")
    with pytest.raises(TraceError, match=r"create it first$"), replacing(tmp_path / "none" / "a.npz", TraceError):
        pass
