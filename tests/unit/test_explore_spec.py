"""Specifications of sweeps: points, messages, and the content hash."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from expertstream.errors import ConfigError
from expertstream.explore import SweepSpec, load_search, load_sweep
from expertstream.explore.fields import change_package, field_paths, kind_of, parse_value, text_of, value_of
from expertstream.explore.jobs import Inputs, jobs_of, points_of
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import Technology
from expertstream.strategy import Options

BASE = "model: phi-3.5-moe\n"


def spec_of(tmp_path: Path, text: str) -> SweepSpec:
    file = tmp_path / "spec.yaml"
    file.write_text(BASE + text)
    return load_sweep(file)


def points(spec: SweepSpec) -> list[tuple[object, ...]]:
    return [values for _, values in points_of(spec)]


def test_every_field_can_be_read_from_its_document() -> None:
    documents = {
        "model": MoEModel.preset("deepseek-v2-lite"),
        "package": Package.preset("3x3"),
        "technology": Technology.preset("5nm"),
    }
    for path in field_paths():
        root, _, rest = path.partition(".")
        if rest and root in documents:
            value = value_of(documents[root], rest)
            assert value is None or isinstance(value, (kind_of(path), int)), path


def test_values_are_brought_to_base_units_and_back() -> None:
    assert parse_value("package.die.weight_buffer", "14 MiB") == 14 << 20
    assert text_of("package.die.weight_buffer", 14 << 20) == "14 MiB"
    assert text_of("package.channels.bandwidth", 48 * 10**9) == "48 GB/s"
    assert text_of("tokens", 64) == "64"


def test_a_change_of_the_channels_reaches_all_of_them() -> None:
    changed = change_package(
        Package.preset("test-chip-2x2"), {"channels.bandwidth": 10**9, "die.weight_buffer": 1 << 20}
    )
    assert [c.bandwidth_bytes_per_s for c in changed.channels] == [10**9] * 4
    assert changed.die.weight_buffer_bytes == 1 << 20


def test_grid_zip_and_ranges(tmp_path: Path) -> None:
    fields = "fields: {tokens: [16, 64], package.die.weight_buffer: {from: 4 MiB, to: 16 MiB, steps: 3, scale: log}}\n"
    assert points(spec_of(tmp_path, fields)) == [
        (16, 4 << 20), (16, 8 << 20), (16, 16 << 20), (64, 4 << 20), (64, 8 << 20), (64, 16 << 20),
    ]  # fmt: skip
    both = "fields: {tokens: [16, 64], strategy: [ep, tp]}\nmode: zip\n"
    assert points(spec_of(tmp_path, both)) == [(16, "ep"), (64, "tp")]


def test_latin_hypercube_meets_every_part_once_and_the_seed_decides(tmp_path: Path) -> None:
    text = "fields: {tokens: {from: 1, to: 1001}, package.channels.efficiency: {from: 0.1, to: 0.9}}\n"
    spec = spec_of(tmp_path, text + "mode: latin-hypercube\npoints: 10\nseed: 3\n")
    found = points(spec)
    for column, low, width in ((0, 1, 100), (1, 0.1, 0.08)):
        parts = sorted(int((float(str(values[column])) - low) / width + 1e-3) for values in found)
        assert parts == list(range(10))
    assert found == points(spec)
    assert found != points(spec.model_copy(update={"seed": 4}))


def test_the_hash_follows_the_content_not_the_place(tmp_path: Path) -> None:
    one = spec_of(tmp_path, "fields: {tokens: [16, 64], strategy: [ep, tp]}\n")
    other = spec_of(tmp_path, "fields: {tokens: [64], strategy: [tp]}\n")
    hashes = {job.values: job.hash for job in jobs_of(Inputs(one), points_of(one))}
    assert len(set(hashes.values())) == 4
    assert [job.hash for job in jobs_of(Inputs(other), points_of(other))] == [hashes[(64, "tp")]]
    changed = other.model_copy(update={"spread": "round-robin"})
    assert [job.hash for job in jobs_of(Inputs(changed), points_of(changed))] != [hashes[(64, "tp")]]


def test_equal_points_run_once_and_conditions_drop_points(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "fields: {tokens: {from: 1, to: 3}}\nmode: random\npoints: 50\n")
    assert len(jobs_of(Inputs(spec), points_of(spec))) == 3
    spec = spec_of(tmp_path, "fields: {tokens: [16, 64, 256]}\nwhere: ['tokens >= 16 * package.rows']\n")
    assert [job.values for job in jobs_of(Inputs(spec), points_of(spec))] == [(64,), (256,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields: {tokns: [16]}", ":2:10: fields.tokns: there is no field 'tokns'; did you mean 'tokens'?"),
        ("fields: {package.die.weight_buffer: [14]}", "size 14 has no unit; write for example '14 MiB'"),
        ("fields: {tokens: []}", "fields.tokens: tokens has no values; give at least one"),
        ("fields: {}", "fields: no field is varied"),
        ("tokens: 16", "key 'fields' is missing"),
        ("fields: {strategy: [epp]}", "unknown strategy 'epp'; did you mean 'ep'?"),
        ("fields: {tokens: {from: 1, to: 9}}", "tokens: a range in mode 'grid' needs steps"),
        ("fields: {tokens: {from: 9, to: 1, steps: 3}}", "'from' must be below 'to'"),
        (
            "tokens: 9\nfields: {layer: {from: 4, to: 8, steps: 1}}",
            ":3:34: fields.layer.steps: layer: 'steps': input should be greater than or equal to 2 (given: 1)",
        ),
        (
            "fields: {tokens: {from: 4, to: 8, scale: cubic}}",
            ":2:35: fields.tokens.scale: tokens: 'scale': input should be 'linear' or 'log' (given: 'cubic')",
        ),
        ("fields: {tokens: [true]}", ":2:19: fields.tokens.0: tokens: a number is needed, not true or false"),
        (
            "fields:\n  tokens:\n    from: 4\n    to: 8\n    steps: few",
            ":6:5: fields.tokens.steps: tokens: 'steps': input should be a valid integer, unable to parse",
        ),
        ("fields: {tokens: {from: 4, to: 8, step: 3}}", ":2:35: fields.tokens.step: tokens: a range is {from: ..., to"),
        ("fields: {tokens: {from: 4, to: yes}}", ":2:28: fields.tokens.to: tokens: input should be a valid integer"),
        ("fields: {tokens: [1]}\nwhere: tokens > 5", "where: expected a list (given: 'tokens > 5')"),
        ("fields: {strategy: {from: 1, to: 2, steps: 2}}", "strategy takes no numbers, so it needs a list of values"),
        ("fields: {tokens: 16}", "tokens: give a list of values, or {from: ..., to: ..., steps: ...}, not 16"),
        (
            "fields: {tokens: [16, 32], strategy: [ep]}\nmode: zip",
            "zip needs lists of one length; given: tokens 2",
        ),
        ("fields: {tokens: [16]}\nmode: random", "mode 'random' needs the number of points"),
        ("fields: {tokens: [16]}\nwhere: [tokns < 3]", ":3:9: where.0: 'tokns < 3' names 'tokns'"),
        ("fields: {tokens: [16]}\nlimits: [latencyps < 3]", "limits.0: 'latencyps < 3' names 'latencyps'"),
        ("fields: {tokens: [16]}\nwher: []", "unknown key 'wher'; did you mean 'where'?"),
        ("fields: {tokens: [16]}\nstrategy: epp", "strategy: unknown strategy 'epp'"),
        (
            "fields: {tokens: [16]}\nwhere: [tokens < 9, tokens > 20]",
            ":3:21: where.1: 'tokens > 20' can never hold together with those before it (tokens < 9)",
        ),
        (
            "fields: {tokens: [16]}\nlimits: [latency_ps < 1 us and latency_ps > 2 us]",
            "limits.0: 'latency_ps < 1 us and latency_ps > 2 us' can never hold by itself",
        ),
        ("fields: {tokens: [16]}\nwhere: [package.die.clock > 800]", "where.0: 'package.die.clock > 800' compares"),
        ("fields: {technology.sram_read: [-1]}", "technology.sram_read: input should be greater than or equal to 0"),
        ("fields: {options.order: [best]}", "options.order: 'best' is unknown; allowed: id, paired"),
        ("fields: {tokens: {from: 1, to: 9000000, steps: 9000000}}", "the grid has more than 5000000 points"),
    ],
)
def test_bad_specifications_get_one_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_of(tmp_path, text + "\n")
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_contradictory_conditions_are_an_error(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "fields: {tokens: [16, 64]}\nwhere: [tokens < 64, tokens > 16]\n")
    with pytest.raises(ConfigError, match="leave none of 2 points; they may contradict one another: tokens < 64; tok"):
        jobs_of(Inputs(spec), points_of(spec))


def test_a_missing_package_file_is_known_before_anything_runs(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "fields: {package: [nowhere/mine.yaml]}\n")
    with pytest.raises(ConfigError, match=r"cannot read 'nowhere/mine.yaml'"):
        Inputs(spec)


def test_objectives_must_be_results(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(BASE + "fields: {tokens: [16, 64]}\nobjectives: {latency: minimize}\n")
    with pytest.raises(
        ConfigError, match=r":3:14: objectives.latency: 'latency' is no result; did you mean 'latency_ps'"
    ):
        load_search(file)


def test_every_option_of_strategies_is_a_field() -> None:
    names = {"decision_ps": "decision_time", "lead_ps": "lead_time"}
    options = {names.get(field.name, field.name) for field in dataclasses.fields(Options)}
    known = {path.removeprefix("options.") for path in field_paths() if path.startswith("options.")}
    assert known == options - {"training", "scheduler"}  # objects
    assert parse_value("options.decision_time", None) is None
    assert parse_value("options.decision_time", "20 ns") == 20_000
    assert kind_of("options.decision_time") is int


@pytest.mark.parametrize("name", ["decision_time", "lead_time"])
def test_times_of_options_beyond_a_second_are_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"options.{name}: must be from 0 ps to 1 s \(given: 1e\+09 s\)"):
        parse_value(f"options.{name}", "1e9 s")


def test_fields_that_name_documents_and_traces_are_loaded_once(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "fields: {package: [test-chip-2x2, 3x3], technology: [5nm, 28nm], model.top_k: [2, 4]}\n")
    inputs = Inputs(spec)
    assert len(jobs_of(inputs, points_of(spec))) == 8
    assert sorted(inputs.documents["package"]) == ["3x3", "test-chip-2x2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strategy: tp\nfields: {options.rings: [1, 2]}\n", ["options.rings changes nothing under tp"]),
        (
            "fields: {strategy: [ep, fse-dp, tp], options.rings: [1, 2], options.placement: [best]}\n",
            ["options.rings changes nothing under ep, tp", "options.placement changes nothing under fse-dp, tp"],
        ),
        (
            "fields: {options.lead_time: [10 us], tokens: [4]}\n",
            ["options.lead_time changes nothing, as nothing is predicted; vary options.prediction, too"],
        ),
        ("fields: {options.lead_time: [10 us], options.prediction: [0.8], options.depth: [2]}\n", []),
    ],
)
def test_options_that_change_nothing_are_said_once(tmp_path: Path, text: str, said: list[str]) -> None:
    assert spec_of(tmp_path, text).without_effect() == said


def test_a_prediction_may_be_written_as_a_number() -> None:
    assert [parse_value("options.prediction", value) for value in (0.8, 1, "0.8", "trace", None)] == [
        "0.8",
        "1",
        "0.8",
        "trace",
        None,
    ]
    for wrong in (1.5, 0, "routes", float("nan")):
        with pytest.raises(
            ConfigError, match=r"^options\.prediction: must be an accuracy above 0 and up to 1, or trace"
        ):
            parse_value("options.prediction", wrong)
    with pytest.raises(ConfigError, match=r"^options\.rings: '3' is unknown; allowed: 1, 2, 4"):
        parse_value("options.rings", 3)
