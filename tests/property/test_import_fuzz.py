"""Damaged and hostile files: whatever the bytes, an import gives a trace or one clear TraceError, in bounded memory."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expertstream.errors import TraceError
from expertstream.trace import RoutingTrace, import_trace, npz, synthesize
from expertstream.trace.importers import contents, found, llama_csv
from tests.needs import needs_module
from tests.unit.test_trace_import import MODEL, csv_lines, recorded, sglang_response, vllm_parted, vllm_response

needs_module("torch", "capture")
import torch  # noqa: E402


def made() -> RoutingTrace:
    return synthesize(MODEL, requests=3, tokens_per_request=9, layers=(1, 2, 3))


def text(*documents: Any) -> bytes:
    return "\n".join(map(json.dumps, documents)).encode()


def saved(save: Callable[[Any], Any]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of each format; ``.pt`` once with its checksums and once, unchecked, as bytes of its pickle."""
    trace = made()
    path = tmp_path_factory.mktemp("seed") / "r.pt"
    recorded(trace, path)
    counts = np.arange(1, 25).reshape(3, 8)
    return {
        "vllm": text(vllm_response(trace, 0), vllm_response(trace, 1)),
        "vllm lists": text(vllm_parted(trace, 0, lambda array: array[:2].tolist())),
        "sglang": text(sglang_response(trace, 0, "generate")),
        "recorder": path.read_bytes(),
        "recorder counts": saved(lambda f: torch.save({"logical_count": torch.from_numpy(counts)}, f)),
        "csv": "\n".join(csv_lines(trace)[:60]).encode(),
        "token csv": b"token,layer,expert\n0,1,2\n0,1,3\n1,1,4\n1,1,5\n",
        "json": text({str(i): {str(t): trace.experts[t, i].tolist() for t in range(4)} for i in range(3)}),
        "eplb": text(counts.tolist()),
        "npy": saved(lambda f: np.save(f, trace.experts[:4])),
        "npz": saved(lambda f: np.savez(f, experts=trace.experts[:9], num_experts=8)),
        "moe-balance": saved(lambda f: np.savez_compressed(f, routed_experts=trace.experts, prompt_token_ids=[1, 2])),
        "counts": saved(lambda f: np.savez(f, counts=counts, top_k=2)),
    }


def check(path: Path) -> None:
    for hints in ({}, {"model": MODEL}):
        assert_clear(path, **hints)


def assert_clear(path: Path, **hints: Any) -> None:
    """An import works, or says in one line why not."""
    try:
        import_trace(path, **hints)
    except TraceError as error:
        said = str(error)
    else:
        return
    assert 10 < len(said) < 700
    assert "\n" not in said


NAMES = (
    "vllm",
    "vllm lists",
    "sglang",
    "recorder",
    "recorder counts",
    "csv",
    "token csv",
    "json",
    "eplb",
    "npy",
    "npz",
)


@pytest.mark.parametrize("name", [*NAMES, "moe-balance", "counts"])
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files(files: dict[str, bytes], tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1)) if content else 0
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "digits", "repeat"]))
        if kind == "flip" and content:
            content[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.sampled_from([1, 8, 10**9]))]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        elif kind == "digits":
            content[at:at] = data.draw(st.sampled_from([b"9" * 30, b"-1", b"1e999", b"null", b"[[[", b"NaN", b'""']))
        else:
            content[at:at] = content[at : at + 40]
    path = tmp_path / "damaged"
    path.write_bytes(bytes(content))
    check(path)


@pytest.mark.parametrize("name", ["recorder", "recorder counts"])
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_pickle_with_right_checksums(
    files: dict[str, bytes], tmp_path: Path, name: str, data: st.DataObject
) -> None:
    """Behind a zip's checksums few damages come through; a hostile file has them right."""
    path = tmp_path / "damaged.pt"
    with zipfile.ZipFile(io.BytesIO(files[name])) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            content = bytearray(old.read(info))
            if info.filename.endswith("data.pkl"):
                for _ in range(data.draw(st.integers(1, 3))):
                    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            new.writestr(info, bytes(content))
    check(path)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    start=st.sampled_from([b"", b"{", b"[", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"layer,expert\n"]), rest=st.binary()
)
def test_any_bytes(tmp_path: Path, start: bytes, rest: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(start + rest)
    check(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "records"]), inner, max_size=3)
    ),
    max_leaves=12,
)
KEYS = (
    "routed_experts",
    "prompt_routed_experts",
    "meta_info",
    "choices",
    "outputs",
    "records",
    "logical_count",
    "usage",
)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    document=st.dictionaries(st.sampled_from([*KEYS, "0", "1"]), JSON | st.dictionaries(st.sampled_from(KEYS), JSON))
)
def test_any_json(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(document))
    for name in (None, "vllm", "sglang", "sglang-recorder", "token-json", "eplb"):
        for hints in ({}, {"top_k": 2}):
            assert_clear(path, format=name, **hints)


def message(path: Path, **hints: Any) -> str:
    with pytest.raises(TraceError) as caught:
        import_trace(path, **hints)
    return str(caught.value)


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    """No array is made of a header's word: not of 80 TB, and not of the 2 GiB that are allowed but not there."""
    for shape, expected in (
        ((10**13, 1, 1), "has 80000000000000 bytes; at most 2147483648 are read"),
        ((2**27, 1, 2), ""),
    ):
        header = str({"descr": "<i8", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        path = tmp_path / "huge.npy"
        path.write_bytes(data)
        assert (expected or "is not a readable .npy file") in message(path)
        with zipfile.ZipFile(tmp_path / "huge.npz", "w") as file:
            file.writestr("routed_experts.npy", data)
        assert (expected or "is not a readable .npz file") in message(tmp_path / "huge.npz")


def test_a_zip_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAX_BYTES", 1_000_000)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, routed_experts=np.zeros((10**6, 2, 2), np.int16))
    assert path.stat().st_size < 20_000
    assert "has 8000000 bytes; at most 1000000 are read: import the file in parts" in message(path)
    torch.save({"logical_count": torch.zeros(10**6)}, tmp_path / "bomb.pt")
    assert "bytes unpacked; at most 1000000 are read" in message(tmp_path / "bomb.pt")


def test_a_tensor_that_repeats_its_few_bytes(tmp_path: Path) -> None:
    """A stride of zero makes a tensor of 10^12 elements out of one."""
    records = [{"topk_ids_of_layer": torch.zeros(1, dtype=torch.int32).expand(10**4, 10**4, 10**4), "positions": [0]}]
    mapping = torch.zeros(2, 2, dtype=torch.int64)
    torch.save({"records": records, "last_physical_to_logical_map": mapping}, tmp_path / "r.pt")
    assert "a tensor of shape [10000, 10000, 10000] and type torch.int32 is too large" in message(tmp_path / "r.pt")


def test_text_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_JSON_BYTES", 100)
    path = tmp_path / "long.json"
    path.write_text("[" + "[1, 2],\n" * 50 + "[1, 2]]")
    assert "is longer than 100 bytes, which is as long as a JSON document may be; write one request" in message(path)
    monkeypatch.setattr(llama_csv, "MAX_LINES", 100)
    path.write_text("layer,expert\n" + "0,1\n0,2\n" * 100_000)
    assert "it has more than 100 lines; import it in parts" in message(path)
    monkeypatch.setattr(found, "MAX_CHOICES", 10)
    np.save(tmp_path / "a.npy", np.zeros((10, 2, 2), int))
    assert "has 40 entries; at most 10 are read: import it in parts" in message(tmp_path / "a.npy")


def test_json_deeper_than_the_stack(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    assert "is not readable JSON" in message(path)


def test_csv_that_names_far_layers_and_tokens(tmp_path: Path) -> None:
    """Sparse files must not become dense arrays."""
    path = tmp_path / "x.csv"
    path.write_text("token,layer,expert\n" + "".join(f"{t},{t % 9000},{t % 7}\n" for t in range(30_000)))
    assert "30000 tokens of 9000 layers with up to 1 experts, but only 30000 lines: most are missing" in message(path)
    path.write_text("layer,expert\n" + "".join(f"{t % 9000},{t % 7}\n" for t in range(30_000, 0, -1)))
    assert "leave out most of the layers" in message(path)


def test_a_wide_json(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps({str(i): {str(i * 997): [1, 2]} for i in range(9000)}))
    model = SimpleNamespace(name="m", n_experts=8, top_k=2)
    assert "9000 tokens of 9000 layers with up to 2 experts, but names only 18000 experts" in message(path, model=model)
