"""Pictures of results: what they show, that the same results give the same bytes, and what cannot be drawn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expertstream.cli.main import run
from expertstream.errors import ConfigError
from expertstream.explore import SweepSpec, sweep
from expertstream.explore.executors import Serial
from expertstream.explore.pictures import Wishes, draw_pictures
from expertstream.explore.pictures.heatmap import borders, heat_map
from expertstream.explore.pictures.parallel import parallel
from expertstream.explore.pictures.pareto import pareto_plot
from expertstream.explore.pictures.tornado import BRACKETS, tornado
from expertstream.explore.results import Results, load_results
from expertstream.explore.spec import Base, SearchSpec
from expertstream.package.technology import Technology
from tests.damage import change_a_number

DDR, BUFFER, LINK = "package.channels.bandwidth", "package.die.weight_buffer", "package.d2d.bandwidth"
GB, MIB = 10**9, 2**20


def results_of(spec: Base, rows: list[dict[str, Any]]) -> Results:
    usual = {"status": "ok", "feasible": True, "energy_pj": 1e9, "die_area_mm2": 10.0, "synthetic": False}
    return Results(spec, [{"point": i, "hash": str(i), **usual, **row} for i, row in enumerate(rows)])


def grid(**changes: object) -> SweepSpec:
    fields = {DDR: ["16 GB/s", "32 GB/s"], BUFFER: ["8 MiB", "16 MiB"], LINK: ["96 GB/s", "288 GB/s"]}
    return SweepSpec.model_validate({"model": "olmoe-1b-7b", "fields": fields, **changes})


def rows_of_grid() -> list[dict[str, Any]]:
    return [
        {
            DDR: ddr * GB,
            BUFFER: buffer * MIB,
            LINK: link * GB,
            "latency_ps": 10**12 // ddr,
            "utilisation": ddr / 100 + buffer / 10000,
            "feasible": buffer == 8 or ddr == 16,
        }
        for ddr in (16, 32)
        for buffer in (8, 16)
        for link in (96, 288)
    ]


def test_a_heat_map_has_a_panel_per_value_of_a_third_field_and_the_preset_between_its_neighbours() -> None:
    shown = heat_map(results_of(grid(), rows_of_grid()), x=DDR, y=BUFFER)
    assert shown.x.ticks == ("16 GB/s", "32 GB/s")
    assert [panel.title for panel in shown.panels] == ["d2d bandwidth 96 GB/s", "d2d bandwidth 288 GB/s"]
    for panel in shown.panels:
        assert panel.values == pytest.approx(np.array([[16.08, 32.08], [16.16, 32.16]]))
        assert panel.feasible.tolist() == [[True, True], [True, False]]
        assert panel.star == ((25.6 - 16) / 16, (14 - 8) / 8)
    assert [panel.exact for panel in shown.panels] == [False, True]  # the preset has 288 GB/s
    assert "SYNTHETIC" not in shown.title


def test_fields_beyond_the_panels_show_their_best_feasible_row_and_failed_points_stay_empty() -> None:
    search = SearchSpec.model_validate(
        {"model": "olmoe-1b-7b", "fields": dict(grid().fields), "objectives": {"latency_ps": "minimize"}}
    )
    rows = rows_of_grid()
    rows[6] |= {"utilisation": 0.9, "feasible": True}  # 32 GB/s, 16 MiB, 96 GB/s
    rows[7] |= {"utilisation": 0.95, "feasible": False, "synthetic": True}
    for row in rows[:2]:
        row |= {"status": "failed", "utilisation": None}
    shown = heat_map(results_of(search, rows), x=DDR, y=BUFFER)
    assert shown.panels[0].values[1, 1] == pytest.approx(90)
    assert np.isnan(shown.panels[0].values[0, 0])
    assert not shown.panels[0].feasible[0, 0]
    assert shown.title.endswith("SYNTHETIC routing, 8 points; of d2d bandwidth: the largest of the feasible ones")


def test_an_axis_of_many_values_is_cut_into_parts() -> None:
    spec = grid(
        fields={DDR: {"from": "0.1 GB/s", "to": "60 GB/s"}, BUFFER: ["8 MiB", "16 MiB"]}, mode="random", points=9
    )
    rows = [
        {DDR: (i + 1) * GB, BUFFER: 8 * MIB << i % 2, "utilisation": i / 100, "latency_ps": 1, "feasible": i % 4 > 0}
        for i in range(60)
    ]
    shown = heat_map(results_of(spec, rows))
    assert len(shown.x.ticks) == 12
    assert shown.panels[0].values.shape == (2, 12)
    assert shown.panels[0].values[1, 0] == pytest.approx(3)  # points 1 and 3 of the first five
    star = shown.panels[0].star
    assert star is not None
    assert star[0] == pytest.approx((25.6 - 1) / 59 * 12 - 0.5)


def test_borders_go_round_the_feasible_cells() -> None:
    assert sorted(borders(np.array([[True, False]]))) == [
        ((-0.5, -0.5), (-0.5, 0.5)),
        ((-0.5, 0.5), (-0.5, -0.5)),
        ((-0.5, 0.5), (0.5, 0.5)),
        ((0.5, 0.5), (-0.5, 0.5)),
    ]


def test_the_front_of_a_pareto_plot_holds_feasible_rows_only() -> None:
    rows = [
        {"latency_ps": latency * 10**9, "energy_pj": energy * 1e9, "feasible": feasible, DDR: GB, BUFFER: 1, LINK: 1}
        for latency, energy, feasible in ((1, 1, False), (2, 5, True), (3, 4, True), (3, 6, True))
    ]
    plot = pareto_plot(results_of(grid(), rows))
    assert plot.best.tolist() == [False, True, True, False]
    assert plot.values[1].tolist() == [2, 5, 10]
    assert len(plot.pairs) == 3


def test_parallel_coordinates_place_lists_evenly_and_ranges_to_scale() -> None:
    lines = parallel(results_of(grid(), rows_of_grid()))
    assert [c.label for c in lines.coordinates[:3]] == ["channels bandwidth", "die weight buffer", "d2d bandwidth"]
    assert sorted(set(lines.coordinates[0].places.tolist())) == [0, 1]
    assert [text for _, text in lines.coordinates[0].ticks] == ["16 GB/s", "32 GB/s"]
    latency = lines.coordinates[3]
    assert latency.label == "latency (ms)"
    assert latency.ticks[0] == (0, "31.3")
    assert latency.ticks[-1] == (1, "62.5")
    assert lines.feasible.tolist() == [True] * 6 + [False] * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("swept") / "out"
    fields = {"tokens": [4, 8], DDR: ["16 GB/s", "64 GB/s"]}
    limits = ["rated_power_w <= 60"]
    sweep(SweepSpec.model_validate({"model": "olmoe-1b-7b", "fields": fields, "limits": limits}), place, Serial())
    return place


def test_a_tornado_chart_belongs_to_one_row(folder: Path) -> None:
    results = load_results(folder)
    fastest = min((row for row in results.rows if row["feasible"]), key=lambda row: int(row["latency_ps"]))
    chart = tornado(results)
    assert chart.title == f"point {fastest['point']} of olmoe-1b-7b: tokens 4, channels bandwidth 16 GB/s"
    assert chart.nominal["energy_pj"] == fastest["energy_pj"]
    assert chart.swings["energy_pj"][0].constant == "memory.ddr3.energy"
    assert tornado(results, 3).nominal["energy_pj"] == results.rows[3]["energy_pj"]
    with pytest.raises(
        ConfigError, match="--point 9 is no point that ran; the column 'point' of the results names them"
    ):
        tornado(results, 9)


def test_a_row_whose_inputs_have_changed_is_not_drawn(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    text = (Path(__file__).parents[2] / "src/expertstream/package/technology/presets/5nm.yaml").read_text()
    profile.write_text(text)
    assert Technology.from_yaml(profile)
    spec = SweepSpec.model_validate({"model": "olmoe-1b-7b", "technology": str(profile), "fields": {"tokens": [4, 8]}})
    sweep(spec, tmp_path / "out", Serial())
    profile.write_text(text.replace("value: 1.5", "value: 1.6"))
    with pytest.raises(ConfigError, match="or trace has changed since these results were made; run again"):
        tornado(load_results(tmp_path / "out"))


def test_the_same_results_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    first, left_out = draw_pictures(load_results(folder), tmp_path / "a")
    again, _ = draw_pictures(load_results(folder), tmp_path / "b")
    kinds = ["heatmap", "pareto", "parallel", "tornado"]
    expected = [f"{kind}.{ending}" for kind in kinds for ending in ("png", "svg")] + ["pictures.html"]
    assert [file.name for file in first] == expected
    assert left_out == []
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    page = (tmp_path / "a/pictures.html").read_text()
    for text in ((tmp_path / "a/tornado.svg").read_text(), page.replace("\\u003cbr\\u003e", " ")):
        assert BRACKETS in re.sub(r"\s*-->\s*<!--\s*", " ", text)
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert page.count('id="picture-') == 4


def test_what_cannot_be_drawn_is_left_out_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "out"
    sweep(SweepSpec.model_validate({"model": "olmoe-1b-7b", "fields": {"tokens": [4, 8]}}), place, Serial())
    files, left_out = draw_pictures(load_results(place), tmp_path / "a", formats=["svg"])
    assert [file.name for file in files] == ["pareto.svg", "parallel.svg", "tornado.svg"]
    needs_two = "a heat map needs two fields with two values each; these results vary fewer"
    assert left_out == [f"no heatmap: {needs_two}"]
    assert run(["plot", str(place), "--kind", "heatmap"]) == 2
    assert needs_two in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--kind", "heatmp"],
            "--kind 'heatmp' is unknown; did you mean 'heatmap'? allowed: heatmap, pareto, parallel",
        ),
        (["--format", "gif"], "--format 'gif' is unknown; allowed: png, svg, html"),
        (["--x", "tokns"], "--x 'tokns' is not varied; did you mean 'tokens'? varied: tokens, package.channels.bandw"),
        (["--x", "tokens", "--y", "tokens"], "--x and --y are both 'tokens'; give two fields"),
        (["--value", "latency"], "--value 'latency' is no result; did you mean 'latency_ps'?"),
        (["--point", "77"], "--point 77 is no point that ran"),
        (["--format", ""], "--format names none; allowed: png, svg, html"),
        (["--kind", ","], "--kind names none; allowed: heatmap, pareto, parallel, tornado"),
    ],
)
def test_bad_calls(folder: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plot", str(folder), *options, "-o", str(folder / "no")]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "no").exists()


def test_wishes_for_what_is_not_drawn_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wishes = ["--x", "tokens", "--point", "0", "-f", "png", "-o", str(tmp_path / "out")]
    assert run(["plot", str(folder), "--kind", "parallel", *wishes]) == 0
    err = capsys.readouterr().err
    assert "--x changes nothing: no heatmap was asked for" in err
    assert "--point changes nothing: no tornado was asked for" in err


def test_folders_without_results(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"holds no results: spec.json is missing or damaged; give the folder that swe"
    ):
        load_results(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "spec.json").write_bytes((folder / "spec.json").read_bytes())
    with pytest.raises(ConfigError, match="holds no rows yet; run the sweep or search again to go on"):
        load_results(tmp_path)
    (tmp_path / "results.parquet").write_bytes((folder / "results.parquet").read_bytes()[:500])
    with pytest.raises(ConfigError, match="is damaged; run the sweep or search again to make it anew"):
        load_results(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "[1]", '{"hypervolume": 3}', '{"hypervolume": ["a"]}', "{}"])
def test_damaged_files_beside_the_rows_are_one_message(folder: Path, tmp_path: Path, content: str) -> None:
    for name in ("spec.json", "results.parquet"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(ConfigError, match=r"search.json' is damaged; run the sweep or search again to make it anew$"):
        load_results(tmp_path)
    (tmp_path / "spec.json").write_text(content)
    with pytest.raises(ConfigError, match=r"spec.json"):
        load_results(tmp_path)


def test_a_changed_number_in_the_results_is_found(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_bytes((folder / "spec.json").read_bytes())
    file = tmp_path / "results.parquet"
    file.write_bytes((folder / "results.parquet").read_bytes())
    change_a_number(file, "utilisation")
    with pytest.raises(ConfigError, match=r"results.parquet' is damaged; run the sweep or search again"):
        load_results(tmp_path)


def test_an_unfinished_sweep_is_drawn_from_what_is_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_bytes((folder / "spec.json").read_bytes())
    (tmp_path / "shards").mkdir()
    shard = sorted((folder / "shards").iterdir())[0]
    (tmp_path / "shards/00000000.parquet").write_bytes(shard.read_bytes())
    assert 0 < len(load_results(tmp_path).rows) <= 4
    assert heat_map(load_results(tmp_path), value=Wishes.value).panels


def test_texts_keep_the_order_of_the_specification_and_files_are_called_by_their_names() -> None:
    fields = {"strategy": ["tp", "ep"], "trace": ["there/b.npz", "here/a.npz"], DDR: ["16 GB/s", "32 GB/s"]}
    rows = [
        {DDR: ddr * GB, "strategy": strategy, "trace": trace, "latency_ps": 1, "utilisation": 0.5}
        for ddr in (16, 32)
        for strategy in ("ep", "tp")
        for trace in ("here/a.npz", "there/b.npz")
    ]
    shown = heat_map(results_of(grid(fields=fields), rows), x="strategy", y="trace")
    assert shown.x.ticks == ("tp", "ep")
    assert shown.y.ticks == ("b.npz", "a.npz")
    assert not shown.limited
