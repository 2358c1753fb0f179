"""What a serving run is made of, as YAML (examples/serve.yaml explains every key)."""

from __future__ import annotations

from math import gcd
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from expertstream.config import misfit
from expertstream.schedule import Slack
from expertstream.serving.requests import Lengths
from expertstream.strategy import DEFAULT, Options
from expertstream.strategy.plan import FROM_TRACE
from expertstream.trace import RoutingTrace
from expertstream.units import ByteSize, TimePs

_FROZEN = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
_Count = Annotated[int, Field(ge=1, le=10**9)]


class LengthSpec(BaseModel):
    """Token counts of prompts or outputs; see ``requests.Lengths``."""

    model_config = _FROZEN

    distribution: Literal["fixed", "uniform", "lognormal"] = "fixed"
    mean: _Count
    sigma: float = Field(default=1.0, ge=0, le=5)
    most: _Count = 32768

    @model_validator(mode="after")
    def _fits(self) -> LengthSpec:
        if self.mean > self.most:
            text = f"a mean of {self.mean} tokens is above the most tokens, {self.most} (default: 32768)"
            raise misfit(f"{text}; raise 'most' or lower 'mean'", "mean")
        return self

    def lengths(self) -> Lengths:
        """The distribution."""
        return Lengths(self.distribution, self.mean, self.sigma, self.most)


class ArrivalSpec(BaseModel):
    """Where requests come from: ``clients`` of a closed loop, a Poisson ``rate_per_s``, or a ``file``."""

    model_config = _FROZEN

    arrivals: Literal["closed-loop", "poisson", "file"]
    clients: _Count | None = None
    rate_per_s: float | None = Field(default=None, ge=1e-6, le=1e6)
    file: Path | None = None
    prompt_tokens: LengthSpec = LengthSpec(mean=128)
    output_tokens: LengthSpec = LengthSpec(mean=64)
    count: _Count | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _is_whole(self) -> ArrivalSpec:
        needed = {"closed-loop": "clients", "poisson": "rate_per_s", "file": "file"}[self.arrivals]
        if getattr(self, needed) is None:
            raise misfit(f"arrivals '{self.arrivals}' needs the key '{needed}'", "arrivals")
        for key in ("clients", "rate_per_s", "file"):
            if key != needed and getattr(self, key) is not None:
                raise misfit(f"'{key}' does not go with arrivals '{self.arrivals}'; leave it out", key)
        return self


class SyntheticSpec(BaseModel):
    """A library of generated requests that routing is replayed from."""

    model_config = _FROZEN

    requests: int = Field(default=32, ge=1, le=4096)
    tokens: int = Field(default=256, ge=1, le=65536)
    seed: int = Field(default=0, ge=0)


class BufferingSpec(BaseModel):
    """Token buffering; ``slack_percent`` deferrals per 100 forward passes."""

    model_config = _FROZEN

    slack_percent: int = Field(ge=0, le=100)
    theta_min: int = Field(default=2, ge=0, le=10**6)
    kept_share: float = Field(default=0.25, ge=0, le=0.9)
    refill: bool = False

    def slack(self) -> Slack:
        """The slack as the paper counts it: 10 % is 1 in 10, 30 % is 3 in 10."""
        common = gcd(self.slack_percent, 100)
        return Slack(self.slack_percent // common, 100 // common)


class QosSpec(BaseModel):
    """Targets of a request; missing one of them is a violation."""

    model_config = _FROZEN

    ttft: TimePs | None = None
    tpot: TimePs | None = None


class Scenario(BaseModel):
    """A serving run.

    Attributes:
        model, package: presets or files.
        micro_slices, placement, order, rings, redispatch, decision_time, prediction: as in
            ``strategy.Options``; how long a prediction is known before the gate's answer follows from the block before.
        trace: a routing trace to replay; None: ``synthetic`` routing.
        tokens_per_iteration: the budget. max_requests: that run at a time. kv_capacity: DDR for keys and values.
        iterations: where to stop at the latest. output_head: whether the output head is run for sampled tokens.
        overlap: whether a block's end overlaps with loads of the next one's weights (preload.py).
        technology: profile for energy.
    """

    model_config = _FROZEN

    model: str
    package: str = "test-chip-2x2"
    strategy: str = DEFAULT
    micro_slices: int | None = Field(default=None, ge=1)
    placement: Literal["contiguous", "round-robin", "balanced"] = "round-robin"
    order: Literal["id", "paired"] = "id"
    rings: Literal[1, 2, 4] = 4
    redispatch: bool = False
    decision_ps: TimePs | None = Field(alias="decision_time", default=None)
    prediction: float | str | None = None
    trace: Path | None = None
    synthetic: SyntheticSpec = SyntheticSpec()
    requests: ArrivalSpec
    tokens_per_iteration: int = Field(default=64, ge=1, le=65536)
    max_requests: int = Field(default=256, ge=1, le=65536)
    kv_capacity_bytes: Annotated[ByteSize, Field(ge=1)] = Field(alias="kv_capacity", default=16 << 30)
    iterations: _Count | None = None
    output_head: bool = True
    overlap: bool = True
    buffering: BufferingSpec | None = None
    qos: QosSpec = QosSpec()
    technology: str = "5nm"

    def options(self, training: RoutingTrace | None) -> Options:
        """What the strategy gets; ``training``: the part of the routing that placements are fitted on."""
        return Options(
            micro_slices=self.micro_slices,
            placement=self.placement,
            order=self.order,
            rings=self.rings,
            redispatch=self.redispatch,
            decision_ps=self.decision_ps,
            training=training,
            prediction=self.prediction,
            lead_ps=0,
        )

    @field_validator("prediction")
    @classmethod
    def _is_a_prediction(cls, value: float | str | None) -> float | str | None:
        if value not in (None, FROM_TRACE) and not (isinstance(value, float) and 0 < value <= 1):
            raise ValueError(f"must be an accuracy above 0 and up to 1, or {FROM_TRACE} (given: {value})")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> Scenario:
        if self.trace is not None and "synthetic" in self.model_fields_set:
            raise misfit("'synthetic' does not go with 'trace', which is replayed; leave one of them out", "synthetic")
        if self.iterations is None and self.requests.count is None and self.requests.arrivals != "file":
            raise misfit("the run has no end; give iterations, or requests.count", "requests")
        return self
