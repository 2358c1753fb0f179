import { AXIS, GUTTER, RIGHT, colours, drawAxis, onFrame, prepare } from "./canvas.js";
import { formatBytes } from "./format.js";

const PLOT = 130; // height of the chart of busy shares

/** How busy over time: shares of MAC arrays, DDR channels and links that are busy. */
export class Use {
  constructor(run, state, number) {
    this.run = run;
    this.state = state;
    this.canvas = document.getElementById(`use-${number}`);
    this.draw = onFrame(() => this.drawNow());
  }

  drawNow() {
    const { run, state } = this;
    const { context, width } = prepare(this.canvas, PLOT + AXIS + 28);
    const colour = colours();
    const wide = width - GUTTER - RIGHT;
    const top = 22;
    const series = [
      ["MAC arrays", "compute", 2, [], () => 1 / run.nDies],
      ["DDR channels", "load", 1, [7, 3], () => 1 / run.channels.length],
      ["D2D links", "send", 3, [2, 3], (row) => run.hops[row] / run.links.length],
    ];
    context.fillStyle = colour.panel;
    context.fillRect(GUTTER, top, wide, PLOT);
    drawAxis(context, state, GUTTER, wide, top, top + PLOT, colour);
    context.textAlign = "right";
    for (const share of [0, 0.5, 1]) {
      const y = top + PLOT * (1 - share);
      context.fillStyle = colour.line;
      context.fillRect(GUTTER, y, wide, 1);
      context.fillStyle = colour.muted;
      context.fillText(`${100 * share} %`, GUTTER - 6, y);
    }
    let labelled = GUTTER;
    for (const [name, ink, lane, dash, weight] of series) {
      if (lane === 3 && run.links.length === 0) continue;
      const shares = new Float64Array(Math.max(1, Math.floor(wide / 3)));
      for (const track of run.tracks) if (track.lane === lane) track.addShares(shares, state.from, state.to, weight);
      context.strokeStyle = colour[ink];
      context.lineWidth = 2;
      context.setLineDash(dash);
      context.beginPath();
      shares.forEach((share, i) =>
        context.lineTo(GUTTER + ((i + 0.5) / shares.length) * wide, top + PLOT * (1 - Math.min(1, share))),
      );
      context.stroke();
      context.beginPath();
      context.moveTo(labelled, 9);
      context.lineTo(labelled + 26, 9);
      context.stroke();
      context.setLineDash([]);
      context.fillStyle = colour.text;
      context.textAlign = "left";
      context.fillText(name, labelled + 32, 9);
      labelled += 32 + context.measureText(name).width + 20;
    }
  }
}

/** How full each die's buffers are, one small chart a die, placed as the dies are where there is room. */
export class Levels {
  constructor(run, state, number) {
    this.run = run;
    this.state = state;
    this.canvas = document.getElementById(`levels-${number}`);
    this.draw = onFrame(() => this.drawNow());
  }

  drawNow() {
    const { run } = this;
    const available = Math.max(240, this.canvas.parentElement.clientWidth);
    const across = available / run.cols >= 110 ? run.cols : Math.max(1, Math.floor(available / 110));
    const cellHeight = run.nDies <= 16 ? 92 : 66;
    const { context, width } = prepare(this.canvas, Math.ceil(run.nDies / across) * cellHeight);
    const colour = colours();
    const cell = width / across;
    const wide = Math.floor(cell - 14);
    for (let die = 0; die < run.nDies; die++) {
      const x = (die % across) * cell;
      const y = Math.floor(die / across) * cellHeight;
      const tall = cellHeight - 28;
      context.fillStyle = colour.panel;
      context.fillRect(x, y + 18, wide, tall);
      const peaks = [0, 1].map((pool) => this.#drawLevel(context, die, pool, x, y + 18, wide, tall, colour));
      context.strokeStyle = colour.line;
      context.lineWidth = 1;
      context.strokeRect(x + 0.5, y + 18.5, wide - 1, tall - 1);
      context.fillStyle = colour.text;
      context.textAlign = "left";
      context.font = "600 12px system-ui, sans-serif";
      const name = `die ${die}`;
      context.fillText(name, x, y + 8);
      const after = x + context.measureText(name).width + 8;
      context.font = "11px system-ui, sans-serif";
      context.fillStyle = colour.muted;
      const [weights, tokens] = peaks.map(formatBytes);
      const long = `up to ${weights} of weights, ${tokens} of tokens`;
      const short = `${weights} / ${tokens}`;
      const room = x + wide - after;
      if (context.measureText(long).width < room) context.fillText(long, after, y + 8);
      else if (context.measureText(short).width < room) context.fillText(short, after, y + 8);
    }
  }

  /** Draw one buffer's level within the window; return its highest bytes there. */
  #drawLevel(context, die, pool, x, y, wide, tall, colour) {
    const { run, state } = this;
    const { time, bytes } = run.levels[2 * die + pool];
    const highest = new Float64Array(wide);
    const scale = wide / (state.to - state.from);
    for (let i = 0; i < time.length && time[i] < state.to; i++) {
      const until = i + 1 < time.length ? time[i + 1] : state.latency;
      if (until <= state.from) continue;
      const last = Math.min(wide - 1, Math.floor((until - state.from) * scale));
      for (let at = Math.max(0, Math.floor((time[i] - state.from) * scale)); at <= last; at++) {
        if (bytes[i] > highest[at]) highest[at] = bytes[i];
      }
    }
    const capacity = Math.max(1, run.bufferBytes[die][pool]);
    context.beginPath();
    if (pool === 0) context.moveTo(x, y + tall);
    highest.forEach((level, at) => {
      const top = y + tall * (1 - Math.min(1, level / capacity));
      context.lineTo(x + at, top);
      context.lineTo(x + at + 1, top);
    });
    if (pool === 0) {
      context.lineTo(x + wide, y + tall);
      context.fillStyle = colour.load;
      context.globalAlpha = 0.75;
      context.fill();
      context.globalAlpha = 1;
    } else {
      context.strokeStyle = colour.receive;
      context.lineWidth = 2;
      context.stroke();
    }
    return highest.reduce((most, level) => Math.max(most, level), 0);
  }
}
