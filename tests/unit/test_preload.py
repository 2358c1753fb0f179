"""Weights of the next block that idle channels load: the block before must run as if they did not."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from expertstream.engine.layout import COMPLETE, LOAD, WEIGHTS
from expertstream.engine.run import AllAtOnce, Dispatcher, View, run
from expertstream.engine.timeline import Timeline
from expertstream.engine.work import Work
from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.planning import network_of
from expertstream.serving.attention import AttentionBatch, first_loads, plan_attention
from expertstream.serving.blocks import Blocks
from expertstream.serving.iteration import Account
from expertstream.serving.preload import Preloads, Tail, measure_tail, own_channels
from expertstream.strategy import Options, Plan, get_strategy
from expertstream.trace import synthesize
from expertstream.workload import LayerWorkload
from tests.serving import serving, tiny_package, tiny_scenario
from tests.unit.test_engine import full_network

MODEL = MoEModel.one_layer(
    d_model=512,
    d_ffn=384,
    n_experts=16,
    top_k=2,
    attention={"n_heads": 8, "n_kv_heads": 4, "head_dim": 64},
)


def planned(strategy: str, package: Package, tokens: int = 16, seed: int = 3) -> Plan:
    trace = synthesize(MODEL, requests=2, tokens_per_request=64, layers=[0], seed=seed)
    training, trace = trace.split() if get_strategy(strategy).fitted else (None, trace)
    workload = LayerWorkload.of(MODEL, package, trace.iteration(tokens=tokens, layer=0))
    return get_strategy(strategy).plan(workload, Options(placement="round-robin", training=training))


class Together:
    """The block's dispatcher; loads ahead follow as soon as their channel has started its last load."""

    def __init__(self, plan: Plan, alone: Timeline, ahead: list[tuple[int, int]], closing: int) -> None:
        self._inner, self._n = plan.dispatcher, plan.work.n_groups - len(ahead) - 1
        loads = alone.kind == LOAD
        self._due = [
            (int(alone.start_ps[loads & (alone.resource == channel)].max(initial=0)), group) for group, channel in ahead
        ]
        self._closing: list[int] = [closing]

    def decide(self, view: View) -> Iterable[int]:
        picked = list(self._inner.decide(view) or ())
        picked += [group for start, group in self._due if view.now_ps >= start]
        self._due = [(start, group) for start, group in self._due if view.now_ps < start]
        if self._closing and all(state == COMPLETE for state in view.group_state[: self._n]) and not picked:
            picked.append(self._closing.pop())
        return picked


@pytest.mark.parametrize("package", ["test-chip-2x2", "3x3-edge", "4x4"])
@pytest.mark.parametrize("strategy", ["ep", "hydra", "fse-dp-paired", "fse-dp-naive", "tp"])
def test_a_block_runs_the_same_while_idle_channels_load_for_the_next_one(strategy: str, package: str) -> None:
    chips = Package.preset(package)
    plan = planned(strategy, chips)
    alone = run(plan.work, network_of(chips, plan), plan.dispatcher)
    own = own_channels(chips)
    tail = measure_tail(own, plan, alone)
    # many small loads, so that tails are used up
    first = [np.full(64, 1024) if channel >= 0 else np.empty(0, dtype=np.int64) for channel in own]
    counts = Preloads(chips, own, first).count(tail)

    both = planned(strategy, chips)
    work, ahead = both.work, []
    end = int(work.new_gates(1)[0])
    for die, n in enumerate(counts.tolist()):
        if n:
            ahead.append((work.new_group(), int(own[die])))
            work.add_chunks(group=ahead[-1][0], bytes=first[die][:n], die=[[die]] * n, channel=own[die], hold=end)
    closing = work.new_group()
    work.add_chunks(group=closing, bytes=0, die=[[0]], arrive=end)
    dispatcher: Dispatcher = Together(both, alone, ahead, closing)
    together = run(work, network_of(chips, both), dispatcher)

    mine = together.group < closing - len(ahead)
    for name in ("start_ps", "end_ps", "kind", "resource", "die", "chunk", "bytes", "tokens"):
        np.testing.assert_array_equal(getattr(together, name)[mine], getattr(alone, name))
    latency = np.array([channel.latency_ps for channel in chips.channels])
    early = np.flatnonzero(~mine & (together.kind == LOAD))
    assert (together.end_ps[early] + latency[together.resource[early]] <= alone.latency_ps).all()
    assert early.size == counts.sum()
    assert counts.sum() > 0


def test_tails_count_whole_micro_slices_that_arrive_and_fit() -> None:
    chips = Package.preset("test-chip-2x2")
    plan = planned("ep", chips)
    own = own_channels(chips)
    tail = measure_tail(own, plan, run(plan.work, network_of(chips, plan), plan.dispatcher))
    assert min(tail.idle_ps) > 0
    slices = [np.full(4, 25_600)] * 4  # a microsecond each
    for idle, free, expected in ((1_049_999, 10**6, 0), (1_050_000, 10**6, 1), (10**9, 10**6, 4), (10**9, 60_000, 2)):
        given = type(tail)((idle, 0, idle, idle), (free, free, free, 0), 0)
        assert Preloads(chips, own, slices).count(given).tolist() == [expected, 0, expected, 0]


def test_room_is_left_for_what_may_still_come() -> None:
    """Die 1's channel is done at 1 us; a chunk that die 0 sends on comes after that, and may ask for two slots."""
    work = Work()
    group = work.new_group()
    work.add_chunks(group=group, bytes=1000, die=[[1]], channel=1, compute_ps=10**6)
    work.add_chunks(group=group, bytes=2000, die=[[0, 1]], channel=0, compute_ps=10**6)
    network, nothing = full_network(2, buffer=9000), np.empty(0, dtype=np.int64)
    buffers = network.buffer_bytes
    plan = Plan(work, AllAtOnce(1), nothing.reshape(0, 3), np.zeros(1, dtype=np.int64), nothing, buffers, 1, "by hand")
    tail = measure_tail(np.arange(2), plan, run(work, network))
    # Die 1 computes until 2 us; at that instant a send to it starts, which ends, and is computed, until 3.2 us.
    assert tail.idle_ps == (3_200_000 - 2_000_000, 3_200_000 - 1_000_000)
    assert tail.free_bytes == (9000 - 2000, 9000 - 3000 - 2 * 2000)
    assert tail.held_bytes == 5000


def test_what_is_loaded_ahead_counts_in_the_peak_with_what_the_block_still_holds() -> None:
    account = Account(1)
    account.preload(50, Tail((0,), (0,), 700))
    assert (account.sums["peak_bytes"], account.preloaded_bytes) == (750, 50)


def test_channels_of_several_dies_are_nobodys_own() -> None:
    chips = Package.preset("test-chip-2x2")
    shared = chips.model_copy(
        update={"channels": (chips.channels[2], chips.channels[0].model_copy(update={"dies": (0, 1)}))}
    )
    assert own_channels(shared).tolist() == [-1, -1, 0, -1]
    # Die 0 has a channel of its own, too, but its weights lie in the one that it shares.
    three = chips.replace(channels=[{"dies": dies, "bandwidth": "25.6 GB/s"} for dies in ((0, 1), (0,), (1,))])
    assert own_channels(three).tolist() == [-1, 2, -1, -1]


def test_preloaded_weights_lie_in_place_and_count_as_loaded() -> None:
    chips = Package.preset("test-chip-2x2")
    batch = AttentionBatch(np.array([2, 1]), np.array([9, 0]), np.array([0, 1, 3]))
    counts = np.array([0, 3, 8, 1])
    plan = plan_attention(MODEL, chips, batch, preloaded=counts)
    timeline = run(plan.work, network_of(chips, plan), plan.dispatcher)
    usual = plan_attention(MODEL, chips, batch)
    loaded = int(timeline.bytes[timeline.kind == LOAD].sum())
    whole = run(usual.work, network_of(chips, usual), usual.dispatcher)
    expected = sum(int(n_bytes[:n].sum()) for n_bytes, n in zip(first_loads(MODEL, chips), counts, strict=True))
    assert sum(plan.preloaded_bytes) == expected > 0
    assert loaded + expected == int(whole.bytes[whole.kind == LOAD].sum())
    held = (timeline.hold_from_ps == 0) & (timeline.hold_pool == WEIGHTS) & (timeline.hold_die == 2)
    assert timeline.hold_bytes[held].sum() >= first_loads(MODEL, chips)[2].sum()
    assert timeline.latency_ps <= whole.latency_ps
    all_there = plan_attention(MODEL, chips, batch, preloaded=np.full(4, 8))
    assert run(all_there.work, network_of(chips, all_there), all_there.dispatcher).latency_ps < whole.latency_ps


def test_overlap_saves_time_and_moves_the_same_bytes() -> None:
    batch = AttentionBatch(np.array([4]), np.array([0]), np.arange(4))
    blocks = Blocks(MODEL, Package.preset("test-chip-2x2"), "ep", Options(placement="round-robin"))
    routing = synthesize(MODEL, requests=1, tokens_per_request=8, layers=[0]).iteration(tokens=4, layer=0)
    before = blocks.experts(routing, np.arange(4))
    with_it, without = blocks.attention(batch, router=True, after=before.tail), blocks.attention(batch, router=True)
    assert blocks.preloaded_bytes(before.tail) > 0
    assert with_it.latency_ps <= without.latency_ps
    assert (with_it.ddr_bytes, with_it.macs, with_it.sram_write_bytes) == (
        without.ddr_bytes,
        without.macs,
        without.sram_write_bytes,
    )


def test_overlap_is_off_by_a_key_and_never_slower_here() -> None:
    quick, slow = (serving(tiny_scenario(strategy="ep", overlap=overlap)).run() for overlap in (True, False))
    assert slow["preloaded_bytes"] == 0 < quick["preloaded_bytes"]
    assert quick["busy_ps"] < slow["busy_ps"]
    assert quick["requests"] == slow["requests"]


def stored(chips: Package) -> Package:
    return chips.model_copy(update={"d2d": chips.d2d.model_copy(update={"switching": "store-and-forward"})})


def test_nothing_of_attention_is_loaded_ahead_where_dies_store_and_forward() -> None:
    chips = stored(tiny_package())
    report = serving(tiny_scenario(strategy="ep"), package=chips).run()
    assert report["requests"]["completed"] == 12
    assert report["preloaded_bytes"] == 0


def slow_links() -> Package:
    """Attention computes for long after its last load: prompts of many tokens on few MACs."""
    chips = tiny_package(1 << 20)
    return chips.model_copy(update={"die": chips.die.model_copy(update={"macs_per_cycle": 1})})


LONG = {"prompt_tokens": {"mean": 60}, "arrivals": "closed-loop", "clients": 2, "count": 4}


def predicted(
    prediction: float | None, strategy: str = "tp", *, chips: Package | None = None, **more: object
) -> dict[str, int]:
    values = {"strategy": strategy, "requests": LONG, "tokens_per_iteration": 64, "prediction": prediction}
    report: dict[str, int] = serving(tiny_scenario(**values, **more), package=chips or slow_links()).run()
    return report


@pytest.mark.parametrize("switching", ["cut-through", "store-and-forward"])
def test_experts_that_are_predicted_load_while_attention_computes(switching: str) -> None:
    chips = slow_links() if switching == "cut-through" else stored(slow_links())
    without, perfect, poor = (predicted(prediction, chips=chips) for prediction in (None, 1.0, 0.3))
    assert perfect["busy_ps"] < without["busy_ps"]
    assert perfect["ddr_bytes"] == without["ddr_bytes"]
    assert poor["ddr_bytes"] >= without["ddr_bytes"]  # what no token chose was loaded in vain
    assert perfect["macs"] == poor["macs"] == without["macs"]


def test_without_overlap_a_prediction_comes_too_late() -> None:
    assert predicted(1.0, overlap=False)["busy_ps"] == predicted(None, overlap=False)["busy_ps"]


def test_a_strategy_of_a_user_that_passes_a_prediction_over_says_so(tmp_path: Path) -> None:
    """It would run as without one, and pass for what a prediction gives."""
    (tmp_path / "mine.py").write_text(
        "import expertstream as es\n"
        "from expertstream.strategy.tp import plan_tp\n"
        "Mine = es.Strategy('mine', 'text', plan_tp)\n"
    )
    with pytest.raises(ConfigError, match=r"^strategy 'mine' has no option prediction; wrap its plan with "):
        predicted(1.0, f"{tmp_path}/mine.py:Mine")


@pytest.mark.parametrize("strategy", ["tp", "ep", "fse-dp-paired", "fse-dp-naive"])
def test_only_loads_that_fit_run_before_the_gate_has_answered(strategy: str) -> None:
    seen = []

    def observe(kind: str, layer: int, plan: Plan, timeline: Timeline, workload: object) -> None:
        before = timeline.start_ps < timeline.origin_ps
        seen.append((kind, timeline, int(timeline.kind[before].max(initial=LOAD))))

    values = {"strategy": strategy, "requests": LONG, "tokens_per_iteration": 64, "prediction": 1.0}
    run_of = serving(tiny_scenario(**values), package=slow_links(), observe=observe, reuse=False)
    run_of.run()
    leads = 0
    for (_, before, _), (kind, timeline, most) in pairwise(seen):
        if kind == "experts" and timeline.origin_ps and most == LOAD:
            leads += 1
            for channel in range(4):
                loads = (before.kind == LOAD) & (before.resource == channel)
                assert before.end_ps[loads].max(initial=0) + timeline.origin_ps <= before.end_of_all_ps
    assert leads > 0
