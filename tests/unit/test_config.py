"""Configuration files: place and wording of every kind of mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from expertstream.config import check_config, load_config, misfit, parse_config, preset_names, preset_path
from expertstream.errors import ConfigError
from expertstream.explore.spec import SearchSpec, SweepSpec
from expertstream.package import Package
from expertstream.serving.scenario import Scenario
from expertstream.units import FrequencyHz


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    clock_hz: FrequencyHz = Field(alias="clock")
    kind: Literal["plain", "odd"] = "plain"
    cells: int = 1

    @model_validator(mode="after")
    def _odd_cells(self) -> Part:
        if self.kind == "odd" and self.cells % 2 == 0:
            raise misfit(f"{self.cells} is even; an odd part needs an odd number", "cells")
        return self


class Whole(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    part: Part
    parts: tuple[Part, ...] = Field(default=(), min_length=0)
    some: tuple[int, ...] | None = Field(default=None, min_length=1)


GOOD = """\
# a comment
name: one
part:
  clock: 1 kHz
parts:
  - {clock: 2 kHz, kind: odd}
  - clock: 3 kHz
    cells: 4
"""


def message_of(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(text, Whole, "f.yaml")
    return str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cells: 4", "cells: true", "f.yaml:8:5: parts.1.cells: a number is needed, not true or false"),
        ("name: one", "name: one\nsome: [2, false]", "f.yaml:3:11: some.1: a number is needed, not true or false"),
    ],
)
def test_true_is_not_1(old: str, new: str, message: str) -> None:
    assert message_of(GOOD.replace(old, new)) == message


def test_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(GOOD)
    whole = load_config(tmp_path / "f.yaml", Whole)
    assert whole == Whole(
        name="one",
        part=Part(clock_hz=1000),
        parts=(Part(clock_hz=2000, kind="odd"), Part(clock_hz=3000, cells=4)),
    )
    assert hash(whole) == hash(parse_config(GOOD, Whole, "again"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("parts:", "zzz: 1\nparts:", "f.yaml:5:1: unknown key 'zzz'. Known keys: name, part, parts, some"),
        (
            "    cells: 4",
            "    clocks: 4",
            "f.yaml:8:5: unknown key 'clocks'; did you mean 'clock'? Known keys: clock, kind, cells",
        ),
        (
            "2 kHz, kind",
            "2 kHz, knd",
            "f.yaml:6:20: unknown key 'knd'; did you mean 'kind'? Known keys: clock, kind, cells",
        ),
        ("name: one\n", "", "f.yaml:1:1: key 'name' is missing"),
        ("  - clock: 3 kHz\n    cells", "  - cells", "f.yaml:7:5: key 'parts.1.clock' is missing"),
        ("1 kHz", "1", "f.yaml:4:3: part.clock: frequency 1 has no unit; write for example '800 MHz'"),
        ("kind: odd", "kind: od", "f.yaml:6:20: parts.0.kind: input should be 'plain' or 'odd' (given: 'od')"),
        ("name: one", "name: 1", "f.yaml:2:1: name: input should be a valid string (given: 1)"),
        (
            "cells: 4",
            "cells: 4\n    kind: odd",
            "f.yaml:8:5: parts.1.cells: 4 is even; an odd part needs an odd number",
        ),
        ("part:\n  clock: 1 kHz", "part: fast", "f.yaml:3:1: part: expected keys and values (given: 'fast')"),
        ("parts:", "some: []\nparts:", "f.yaml:5:1: some: needs at least 1 item"),
        ("parts:", "1: 2\nparts:", "f.yaml:5:1: 1: keys should be strings (given: 1)"),
        ("parts:", "'': 2\nparts:", "f.yaml:5:1: unknown key ''. Known keys: name, part, parts, some"),
        ("name: one", "name: [", "f.yaml:4:8: not valid YAML: expected ',' or ']', but got ':'"),
        (
            "parts:",
            "name: two\nparts:",
            'f.yaml:5:1: not valid YAML: found duplicate key "name" with value "two" (original value: "one")',
        ),
    ],
)
def test_messages(old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    assert message_of(GOOD.replace(old, new)) == message


def test_a_typo_comes_before_the_key_that_it_leaves_missing() -> None:
    assert message_of(GOOD.replace("clock: 1 kHz", "clokc: 1 kHz")) == (
        "f.yaml:4:3: unknown key 'clokc'; did you mean 'clock'? Known keys: clock, kind, cells\n"
        "f.yaml:3:1: key 'part.clock' is missing"
    )


def test_a_list_whose_only_item_is_wrong_is_not_called_too_short() -> None:
    class Listed(BaseModel):
        parts: tuple[Part, ...] = Field(min_length=1)

    with pytest.raises(ConfigError) as error:
        parse_config("parts:\n  - {clock: 1}\n", Listed, "f.yaml")
    assert str(error.value) == "f.yaml:2:6: parts.0.clock: frequency 1 has no unit; write for example '800 MHz'"


def test_merge_keys_work_and_their_mistakes_are_placed() -> None:
    text = "name: one\npart: &p\n  clock: 1 kHz\nparts:\n  - <<: *p\n    cells: 3\n"
    assert parse_config(text, Whole, "f.yaml").parts == (Part(clock_hz=1000, cells=3),)
    assert message_of(text.replace("1 kHz", "1")) == (
        "f.yaml:3:3: part.clock: frequency 1 has no unit; write for example '800 MHz'\n"
        "f.yaml:5:5: parts.0.clock: frequency 1 has no unit; write for example '800 MHz'"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml: expected keys and values, such as 'name: value', found nothing"),
        ("# only a comment\n", "f.yaml: expected keys and values, such as 'name: value', found nothing"),
        ("- a\n- b\n", "f.yaml: expected keys and values, such as 'name: value', found a list"),
        ("just words", "f.yaml: expected keys and values, such as 'name: value', found only 'just words'"),
        ("a: " + "9" * 5000, "f.yaml: not valid YAML: a number has too many digits"),
        ("a:\n\t- b", "f.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: *b", "f.yaml:1:4: not valid YAML: found undefined alias 'b'"),
    ],
)
def test_what_is_no_configuration(text: str, message: str) -> None:
    assert message_of(text) == message


def test_hostile_texts_are_refused_in_one_line() -> None:
    assert message_of("name: \x01").startswith("f.yaml: not valid YAML: unacceptable character #x0001")
    assert message_of("a: " + "[" * 1_000) == "f.yaml: not valid YAML: nested too deeply"
    assert len(message_of("w" * 10_000)) < 150


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "none.yaml", Whole)
    assert str(error.value) == f"cannot read '{tmp_path / 'none.yaml'}': No such file or directory"
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path, Whole)
    assert str(error.value) == f"cannot read '{tmp_path}': Is a directory"
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "binary.yaml", Whole)
    assert str(error.value) == f"'{tmp_path / 'binary.yaml'}' is not a text file; a YAML file is needed"


def test_the_file_is_named_in_messages(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD.replace("1 kHz", "1"))
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "mine.yaml", Whole)
    assert str(error.value).startswith(f"{tmp_path / 'mine.yaml'}:4:3: part.clock: ")


def test_values_from_python_are_in_base_units() -> None:
    assert check_config({"name": "x", "part": {"clock_hz": 5}}, Whole, "whole x").part.clock_hz == 5
    with pytest.raises(ConfigError) as error:
        check_config({"name": "x", "part": {"clock_hz": 5, "kind": "odd", "cells": 2}}, Whole, "whole x")
    assert str(error.value) == "whole x: part.cells: 2 is even; an odd part needs an odd number"
    with pytest.raises(ConfigError) as error:
        check_config({"name": "x", "part": {"clock_hz": 5, "cell": 2}}, Whole, "whole x")
    assert str(error.value) == "whole x: unknown key 'cell'; did you mean 'cells'? Known keys: clock, kind, cells"


def test_presets_are_found_by_room_and_name() -> None:
    assert preset_names("package") == ["3x3", "3x3-edge", "4x4", "4x4-edge", "test-chip-2x2"]
    for name in preset_names("package"):
        assert preset_path("package", name).name == f"{name}.yaml"
    with pytest.raises(ConfigError) as error:
        preset_path("package", "test-chip")
    assert str(error.value) == (
        "unknown package preset 'test-chip'; did you mean 'test-chip-2x2'? "
        "Available: 3x3, 3x3-edge, 4x4, 4x4-edge, test-chip-2x2"
    )
    with pytest.raises(ConfigError, match=r"^unknown package preset '\.\./x'\. Available: "):
        preset_path("package", "../x")


SWEEP, SEARCH = (
    "model: m\ntokens: 4\nfields: {tokens: [1]}\n",
    "model: m\nfields: {tokens: [1]}\nobjectives: {gap: minimize}\n",
)
SERVING = "model: m\nrequests: {arrivals: closed-loop}\nmax_requests: 2\n"


@pytest.mark.parametrize(
    ("text", "cls", "message"),
    [
        (
            SWEEP,
            Scenario,
            "it has 'fields', so it seems to be a sweep: run it with 'expertstream sweep'. "
            "Needed here is a serving run, with the keys model, requests",
        ),
        (
            SERVING,
            SweepSpec,
            "it has 'requests', so it seems to be a serving run: run it with 'expertstream serve-sim'. "
            "Needed here is a sweep, with the keys model, fields",
        ),
        (
            SEARCH,
            SweepSpec,
            "it has 'fields' and 'objectives', so it seems to be a search: run it with 'expertstream search'. "
            "Needed here is a sweep, with the keys model, fields",
        ),
        (
            SWEEP,
            SearchSpec,
            "it has 'fields', so it seems to be a sweep: run it with 'expertstream sweep'. "
            "Needed here is a search, with the keys model, fields, objectives",
        ),
        (
            "{model_type: mixtral, hidden_size: 64}",
            Package,
            "it has 'model_type', so it seems to be a Hugging Face configuration: give it as MODEL, in a file whose "
            "name ends in .json. Needed here is a package, with the keys name, rows, cols, die, d2d, channels",
        ),
    ],
)
def test_a_file_in_the_wrong_place_is_one_message(text: str, cls: type[BaseModel], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(text, cls, "f.yaml")
    assert str(error.value) == f"f.yaml: {message}"


@pytest.mark.parametrize(
    ("room", "name", "advice"),
    [("model", "yuan2-m32", "MODEL"), ("package", "3x3", "--package"), ("package/technology", "28nm", "--technology")],
)
def test_each_kind_of_preset_is_known_in_the_wrong_place(room: str, name: str, advice: str) -> None:
    with pytest.raises(
        ConfigError, match=f"so it seems to be a [a-z ]+: give it as {advice}[.] Needed here is a sweep"
    ):
        load_config(preset_path(room, name), SweepSpec)


def test_a_file_in_its_place_with_a_key_of_another_kind_is_told_of_the_key() -> None:
    with pytest.raises(ConfigError, match=r"^f.yaml:4:1: unknown key 'requests'[.;]"):
        parse_config(SWEEP + "requests: 3\n", SweepSpec, "f.yaml")
