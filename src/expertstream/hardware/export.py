"""Verilog of the scheduler with a self-checking bench: random layers whose decisions the software has taken."""

from __future__ import annotations

import random

from expertstream.hardware.lockstep import Layer, layer_of, random_requests
from expertstream.hardware.parameters import Parameters
from expertstream.hardware.scheduler import Scheduler
from expertstream.hardware.yosys import to_verilog
from expertstream.schedule import Qos, Slack, SoftwareScheduler, defer, pass_done, token_counts

TOP = "expertstream_scheduler"

_BENCH = """// Self-checking bench of {top}: prints PASS, or FAIL with the first difference.
// {parameters}, seed {seed}
`timescale 1ns / 1ps
module {top}_tb;
  reg clk = 0, rst = 1;
  always #0.625 clk = ~clk;

  reg paired = 1, clear = 0, start = 0;
  reg [{last_token}:0] theta_min = 0;
  reg [7:0] deferrals = {deferrals}, passes = {passes}, saved = {saved};
  reg experts_valid = 0, requests_valid = 0, dispatch_ready = 0, completions_valid = 0;
  reg activations_valid = 0, verdicts_ready = 0, updates_valid = 0;
  wire experts_ready, requests_ready, dispatch_valid, completions_ready;
  wire activations_ready, verdicts_valid, updates_ready, loading, done;
  reg [{last_entry}:0] entry = 0;
  reg [{last_die}:0] room = 0;
  wire [{last_dispatch}:0] decision;
  reg [{last_expert}:0] completed = 0;
  reg [{last_activation}:0] activation = 0;
  wire [{last_request}+1:0] verdict;
  reg [{last_request}+1:0] change = 0;
  wire [{last_die}:0] idle;
  wire [1:0] errors;
  integer checked = 0, random = {seed};

  {top} dut (
    .clk(clk), .rst(rst), .paired(paired), .clear(clear), .start(start), .loading(loading), .done(done),
    .idle(idle), .errors(errors),
    .theta_min(theta_min), .deferrals(deferrals), .passes(passes), .saved(saved),
    .experts__valid(experts_valid), .experts__ready(experts_ready), .experts__payload(entry),
    .requests__valid(requests_valid), .requests__ready(requests_ready), .requests__payload(room),
    .dispatch__valid(dispatch_valid), .dispatch__ready(dispatch_ready), .dispatch__payload(decision),
    .completions__valid(completions_valid), .completions__ready(completions_ready), .completions__payload(completed),
    .activations__valid(activations_valid), .activations__ready(activations_ready), .activations__payload(activation),
    .verdicts__valid(verdicts_valid), .verdicts__ready(verdicts_ready), .verdicts__payload(verdict),
    .updates__valid(updates_valid), .updates__ready(updates_ready), .updates__payload(change)
  );

  task fail(input [8*32-1:0] what);
    begin
      $display("FAIL: %0s after %0d checks, at %0t", what, checked, $time);
      $finish;
      #10;
    end
  endtask

  task pause;  // of a random length
    repeat ($urandom(random) % 4) @(negedge clk);
  endtask

  task push(input [{last_entry}:0] value);
    begin
      pause;
      entry = value; experts_valid = 1; #0.1;
      while (!experts_ready) begin @(negedge clk); #0.1; end
      @(negedge clk) experts_valid = 0;
    end
  endtask

  task decide(input [{last_die}:0] mask, input [{last_dispatch}:0] expected);
    begin
      pause;
      room = mask; requests_valid = 1; #0.1;
      while (!requests_ready) begin @(negedge clk); #0.1; end
      @(negedge clk) requests_valid = 0;
      pause;
      while (!dispatch_valid) @(negedge clk);
      if (decision !== expected) fail("wrong decision");
      checked = checked + 1;
      dispatch_ready = 1;
      @(negedge clk) dispatch_ready = 0;
    end
  endtask

  task complete(input [{last_expert}:0] expert);
    begin
      pause;
      completed = expert; completions_valid = 1; #0.1;
      while (!completions_ready) begin @(negedge clk); #0.1; end
      @(negedge clk) completions_valid = 0;
    end
  endtask

  task activate(input [{last_activation}:0] value);
    begin
      activation = value; activations_valid = 1; #0.1;
      while (!activations_ready) begin @(negedge clk); #0.1; end
      @(negedge clk) activations_valid = 0;
    end
  endtask

  task judge(input [{last_request}+1:0] expected);
    begin
      while (!verdicts_valid) @(negedge clk);
      if (verdict !== expected) fail("wrong verdict");
      checked = checked + 1;
      verdicts_ready = 1;
      @(negedge clk) verdicts_ready = 0;
    end
  endtask

  task update(input [{last_request}+1:0] value);
    begin
      change = value; updates_valid = 1; #0.1;
      while (!updates_ready) begin @(negedge clk); #0.1; end
      @(negedge clk) updates_valid = 0;
    end
  endtask

  task begin_layer;
    begin start = 1; @(negedge clk) start = 0; end
  endtask

  task forget;
    begin clear = 1; @(negedge clk) clear = 0; end
  endtask

  task end_layer;
    begin
      while (!loading) @(negedge clk);
      if (idle !== {{{dies}{{1'b1}}}}) fail("a die stays busy");
    end
  endtask

  initial begin
    #10000000 fail("no end in 10 ms");
  end

  initial begin
    repeat (2) @(negedge clk);
    rst = 0;
{steps}
    if (errors !== 0) fail("error bits");
    $display("PASS: %0d checks", checked);
    $finish;
  end
endmodule
"""


def verilog(parameters: Parameters) -> str:
    """The scheduler as synthesizable Verilog, module ``expertstream_scheduler``."""
    return to_verilog(Scheduler(parameters), TOP)


def bench(parameters: Parameters, layers: int, seed: int) -> str:
    """A Verilog bench with ``layers`` random layers, with token buffering; the software says what is expected."""
    p, rng = parameters, random.Random(seed)
    slack = Slack(1, 2, saved=3)
    qos = {request: Qos() for request in range(p.requests)}
    steps: list[str] = []
    for _ in range(layers):
        routed = random_requests(rng, p)
        activated = {r: [e for e, _ in tokens] for r, tokens in routed.items()}
        theta_min = rng.randint(0, 4)
        steps += [f"theta_min = {theta_min};", *_pushes(layer_of(routed, p), p, rng)]
        counts = token_counts(list(activated.values()), p.experts)
        deferred, after = defer(list(activated.values()), counts, [qos[r] for r in activated], slack, theta_min)
        qos.update(zip(activated, after, strict=True))
        for (request, experts), waits in zip(activated.items(), deferred, strict=True):
            for i, expert in enumerate(experts):
                last = i == len(experts) - 1
                steps.append(f"activate({_pack((request, p.request_bits), (expert, p.expert_bits), (last, 1))});")
            steps.append(f"judge({_pack((request, p.request_bits), (waits, 1))});")
        running = [r for r, waits in zip(activated, deferred, strict=True) if not waits]
        layer = layer_of({r: routed[r] for r in running}, p)
        steps += ["forget;", *_pushes(layer, p, rng), "begin_layer;", *_decisions(layer, p, rng), "end_layer;"]
        for request in running:
            qos[request] = pass_done(qos[request], slack)
            steps.append(f"update({_pack((request, p.request_bits), (0, 1))});")
    dispatch_bits = p.expert_bits + 1 + p.die_bits + p.dies
    return _BENCH.format(
        top=TOP,
        parameters=parameters,
        seed=seed,
        dies=p.dies,
        deferrals=slack.deferrals,
        passes=slack.passes,
        saved=slack.saved,
        last_token=p.token_bits - 1,
        last_entry=p.expert_bits + p.token_bits + p.dies - 1,
        last_die=p.dies - 1,
        last_dispatch=dispatch_bits - 1,
        last_expert=p.expert_bits - 1,
        last_activation=p.request_bits + p.expert_bits,
        last_request=p.request_bits - 1,
        steps="\n".join(f"    {step}" for step in steps),
    )


def _pushes(layer: Layer, p: Parameters, rng: random.Random) -> list[str]:
    experts = [e for e, n in enumerate(layer.counts) if n]
    rng.shuffle(experts)
    words = (
        _pack((e, p.expert_bits), (layer.counts[e], p.token_bits), (layer.trajectories[e], p.dies)) for e in experts
    )
    return [f"push({word});" for word in words]


def _decisions(layer: Layer, p: Parameters, rng: random.Random) -> list[str]:
    twin = SoftwareScheduler("paired", dies=p.dies, experts=p.experts)
    twin.begin(layer.counts, layer.trajectories)
    steps = []
    while twin.remaining or twin.running:
        if twin.remaining and (not twin.running or rng.random() < 0.5):
            room = rng.getrandbits(p.dies)
            expert, streams, die = twin.decide(room)
            expected = _pack(
                (expert, p.expert_bits), (streams, 1), (die, p.die_bits), (layer.trajectories[expert], p.dies)
            )
            steps.append(f"decide({_pack((room, p.dies))}, {expected});")
        else:
            expert = rng.choice(twin.running)
            twin.complete(expert)
            steps.append(f"complete({expert});")
    return steps


def _pack(*fields: tuple[int, int]) -> str:
    """A Verilog number of (value, bits) fields, the first in the lowest bits."""
    word, width = 0, 0
    for value, bits in fields:
        word |= int(value) << width
        width += bits
    return f"{width}'h{word:x}"
