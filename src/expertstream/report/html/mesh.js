import { colours } from "./canvas.js";

const PILL = 58; // width of a DDR channel
const WAY = 46; // between a DDR channel and its die at the edge of the mesh

/** Places of dies, links and DDR channels in the picture of the package, and how they are drawn at a time. */
export class Mesh {
  constructor(run) {
    this.run = run;
  }

  /** Fit the mesh into `width` CSS pixels; return the height that it takes. */
  fit(width) {
    const { rows, cols, nDies } = this.run;
    const sides = 2 * (PILL + WAY + 4);
    this.pitch = Math.max(34, Math.min(190, (width - sides) / (cols - 0.42), 640 / (rows - 0.42)));
    this.side = this.pitch * 0.58;
    this.small = this.side < 60;
    this.head = Math.max(this.side * 0.26, this.small ? 13 : 20); // of a die, for its name
    this.left = (width - ((cols - 1) * this.pitch + this.side)) / 2;
    this.top = 16;
    this.pills = [];
    const taken = new Array(nDies).fill(0);
    for (const dies of this.run.channels) {
      const col = dies[0] % cols;
      const [x, y] = this.corner(dies[0]);
      const right = cols > 1 && col >= cols / 2;
      const at = y + 4 + taken[dies[0]]++ * 26;
      // Inside the mesh a pill stands in the gap between two dies; at its edge there is more room.
      const edge = col === 0 || col === cols - 1;
      const gap = edge ? PILL + WAY : this.pitch - this.side - 3;
      const wide = edge ? PILL : Math.min(PILL, gap / 2);
      this.pills.push({ x: right ? x + this.side + gap - wide : x - gap, y: at, width: wide });
    }
    return this.top * 2 + (rows - 1) * this.pitch + this.side;
  }

  corner(die) {
    const { cols } = this.run;
    return [this.left + (die % cols) * this.pitch, this.top + Math.floor(die / cols) * this.pitch];
  }

  centre(die) {
    const [x, y] = this.corner(die);
    return [x + this.side / 2, y + this.side / 2];
  }

  /** Die at a place of the picture, or -1. */
  dieAt(x, y) {
    for (let die = 0; die < this.run.nDies; die++) {
      const [left, top] = this.corner(die);
      if (x >= left && x <= left + this.side && y >= top && y <= top + this.side) return die;
    }
    return -1;
  }

  draw(context, state, now) {
    this.context = context;
    this.colour = colours();
    this.expert = state.expert;
    this.#links(now);
    if (this.expert !== null) this.#trajectory();
    // What moves goes in under the dies, so that it hides neither their names nor what they compute.
    for (const row of Object.values(now.loads)) this.#load(row, state.time);
    for (const row of now.sends) this.#send(row, state.time);
    for (let die = 0; die < this.run.nDies; die++) this.#die(die, state.time, now.computes[die]);
    this.run.channels.forEach((_, channel) => this.#channel(channel, now.loads[channel] ?? -1, state.time));
  }

  #isDim(row) {
    return this.expert !== null && this.run.expert[row] !== this.expert;
  }

  /** The two ends of a directed link, beside the middle between two dies so that both directions show. */
  #ends(a, b) {
    const [ax, ay] = this.centre(a);
    const [bx, by] = this.centre(b);
    const length = Math.hypot(bx - ax, by - ay) || 1;
    const [ux, uy] = [(bx - ax) / length, (by - ay) / length];
    const aside = this.side * 0.14;
    const edge = this.side / 2;
    return [ax + ux * edge - uy * aside, ay + uy * edge + ux * aside, bx - ux * edge - uy * aside, by - uy * edge + ux * aside];
  }

  #links(now) {
    const { context, colour, run } = this;
    const busy = new Map();
    for (const row of now.sends) {
      for (const link of run.path(run.source[row] - 1, run.die[row])) busy.set(link, row);
    }
    run.links.forEach(([a, b], link) => {
      if (run.deadLinks.includes(link)) return;
      const [x, y, toX, toY] = this.#ends(a, b);
      const row = busy.get(link);
      const active = row !== undefined && !this.#isDim(row);
      context.strokeStyle = active ? colour.send : colour.line;
      context.lineWidth = active ? 3 : 1.5;
      this.#arrow(x, y, toX, toY, active ? 6 : 4);
    });
  }

  #arrow(x, y, toX, toY, head) {
    const { context } = this;
    const angle = Math.atan2(toY - y, toX - x);
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(toX, toY);
    context.moveTo(toX - head * Math.cos(angle - 0.5), toY - head * Math.sin(angle - 0.5));
    context.lineTo(toX, toY);
    context.lineTo(toX - head * Math.cos(angle + 0.5), toY - head * Math.sin(angle + 0.5));
    context.stroke();
  }

  #trajectory() {
    const { context, colour, run } = this;
    const { linkUse } = run.ofExpert(this.expert);
    const most = Math.max(1, ...linkUse.values());
    context.strokeStyle = colour.accent;
    for (const [link, use] of linkUse) {
      const [x, y, toX, toY] = this.#ends(...run.links[link]);
      context.globalAlpha = 0.35;
      context.lineWidth = 3 + (7 * use) / most;
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(toX, toY);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  #die(die, time, row) {
    const { context, colour, run, side } = this;
    const [x, y] = this.corner(die);
    const visits = this.expert !== null && run.tokensOf(this.expert, die) > 0;
    context.fillStyle = colour.panel;
    context.strokeStyle = visits ? colour.accent : colour.line;
    context.lineWidth = visits ? 3 : 1.5;
    context.beginPath();
    context.roundRect(x, y, side, side, 7);
    context.fill();
    context.stroke();
    const { small, head } = this;
    if (run.deadDies.includes(die)) {
      this.#label(small ? "dead" : `die ${die} dead`, x + side / 2, y + side / 2, colour.muted, small ? 9 : 12);
      return;
    }
    context.textAlign = "center";
    context.fillStyle = colour.text;
    context.font = `600 ${small ? 9 : 12}px system-ui, sans-serif`;
    context.fillText(small ? `${die}` : `die ${die}`, x + side / 2, y + (small ? 8 : 13));
    this.#gauge(die, 0, x + 5, y, time, colour.load);
    this.#gauge(die, 1, x + side - 5 - Math.max(3, side * 0.06), y, time, colour.receive);
    this.#macs(row, x + side * 0.16, y + head, side * 0.68, time);
    if (this.expert !== null) this.#waiting(die, x, y, time);
  }

  #gauge(die, pool, x, y, time, ink) {
    const { context, colour, run, side } = this;
    const wide = Math.max(3, side * 0.06);
    const tall = Math.min(side * 0.62, side - this.head - 2);
    const top = y + this.head;
    const share = Math.min(1, run.held(die, pool, time) / Math.max(1, run.bufferBytes[die][pool]));
    context.fillStyle = colour.surface;
    context.fillRect(x, top, wide, tall);
    context.fillStyle = ink;
    context.fillRect(x, top + tall * (1 - share), wide, tall * share);
  }

  #macs(row, x, y, wide, time) {
    const { context, colour, run } = this;
    const tall = Math.min(wide * 0.62, this.side - this.head - 2);
    context.fillStyle = colour.surface;
    context.fillRect(x, y, wide, tall);
    if (row < 0) {
      if (wide > 44) this.#label("idle", x + wide / 2, y + tall / 2, colour.muted, 11);
      return;
    }
    const dim = this.#isDim(row);
    const done = (time - run.start[row]) / Math.max(1, run.busy[row]);
    context.fillStyle = this.expert !== null && !dim ? colour.accent : colour.compute;
    context.globalAlpha = dim ? 0.2 : 0.35;
    context.fillRect(x, y, wide, tall);
    context.globalAlpha = dim ? 0.3 : 1;
    context.fillRect(x, y + tall - 4, wide * Math.min(1, done), 4);
    context.globalAlpha = 1;
    const ink = dim ? colour.muted : colour.text;
    const name = run.shortName(run.expert[row]);
    if (wide < 22) return; // the table below the picture has it
    if (wide <= 44) this.#label(name, x + wide / 2, y + tall / 2 - 1, ink, 8, "600");
    else {
      this.#label(name, x + wide / 2, y + tall * 0.32, ink, 13, "600");
      this.#label(`${run.tokens[row]} tok`, x + wide / 2, y + tall * 0.68, ink, 11);
    }
  }

  /** A square for each micro-slice of the followed expert that the die holds. */
  #waiting(die, x, y, time) {
    const { context, colour, run, side } = this;
    const size = Math.max(3, Math.min(7, side * 0.07));
    const perRow = Math.max(1, Math.floor((side * 0.68) / (size + 2)));
    let nth = 0;
    for (const stay of run.ofExpert(this.expert).stays) {
      if (stay.die !== die || stay.from > time || stay.to <= time) continue;
      if (nth >= 2 * perRow) break;
      context.fillStyle = colour.accent;
      const column = nth % perRow;
      const row = Math.floor(nth / perRow);
      context.fillRect(x + side * 0.16 + column * (size + 2), y + side * 0.75 + row * (size + 2), size, size);
      nth++;
    }
  }

  #channel(channel, row, time) {
    const { context, colour, run } = this;
    const { x, y, width } = this.pills[channel];
    const dim = row >= 0 && this.#isDim(row);
    context.fillStyle = colour.panel;
    context.strokeStyle = row >= 0 && !dim ? colour.load : colour.line;
    context.lineWidth = 1.5;
    context.beginPath();
    context.roundRect(x, y, width, 20, 5);
    context.fill();
    context.stroke();
    if (row >= 0) {
      context.fillStyle = colour.load;
      context.globalAlpha = dim ? 0.25 : 1;
      context.fillRect(x + 3, y + 15, (width - 6) * Math.min(1, (time - run.start[row]) / Math.max(1, run.busy[row])), 3);
      context.globalAlpha = 1;
    }
    if (width >= 12) this.#label(width > 44 ? `DDR ${channel}` : `D${channel}`, x + width / 2, y + 8.5, colour.text, width > 44 ? 11 : 9);
  }

  #load(row, time) {
    const { run } = this;
    const pill = this.pills[run.resource[row]];
    const die = run.die[row];
    const [x, y] = this.corner(die);
    const from = [pill.x + pill.width / 2, pill.y + 10];
    const outward = pill.x < x;
    const to = die === run.channels[run.resource[row]][0] ? [x + (outward ? 0 : this.side), pill.y + 10] : this.centre(die);
    const start = [from[0] + (outward ? 1 : -1) * (pill.width / 2), from[1]];
    this.#slice(row, [start, to], time, this.colour.load);
  }

  #send(row, time) {
    const { run } = this;
    const points = [];
    for (const link of run.path(run.source[row] - 1, run.die[row])) {
      const [x, y, toX, toY] = this.#ends(...run.links[link]);
      points.push([x, y], [toX, toY]);
    }
    this.#slice(row, points, time, this.colour.send);
  }

  /** A micro-slice on its way along a line of points; it begins beside the first one, where it can be read. */
  #slice(row, points, time, ink) {
    const { context, colour, run } = this;
    const name = run.shortName(run.expert[row]);
    const high = this.small ? 11 : 16;
    const wide = Math.max(high, name.length * (high * 0.5) + 7);
    const [[ax, ay], [bx, by]] = points;
    const first = Math.hypot(bx - ax, by - ay) || 1;
    const beside = Math.min((ax === bx ? high : wide) / 2 + 1, first / 2) / first;
    points[0] = [ax + (bx - ax) * beside, ay + (by - ay) * beside];
    const lengths = points.slice(1).map(([x, y], i) => Math.hypot(x - points[i][0], y - points[i][1]));
    const total = lengths.reduce((sum, length) => sum + length, 0);
    let left = total * Math.min(1, (time - run.start[row]) / Math.max(1, run.busy[row]));
    let leg = 0;
    while (leg < lengths.length - 1 && left > lengths[leg]) left -= lengths[leg++];
    const share = lengths[leg] ? left / lengths[leg] : 0;
    const x = points[leg][0] + (points[leg + 1][0] - points[leg][0]) * share;
    const y = points[leg][1] + (points[leg + 1][1] - points[leg][1]) * share;
    const dim = this.#isDim(row);
    context.globalAlpha = dim ? 0.25 : 1;
    context.fillStyle = !dim && this.expert !== null ? colour.accent : ink;
    context.strokeStyle = colour.surface;
    context.lineWidth = 1.5;
    context.beginPath();
    context.roundRect(x - wide / 2, y - high / 2, wide, high, 4);
    context.fill();
    context.stroke();
    this.#label(name, x, y + 0.5, colour.surface, high * 0.68, "600");
    context.globalAlpha = 1;
  }

  #label(text, x, y, ink, size, weight = "400") {
    const { context } = this;
    context.fillStyle = ink;
    context.textAlign = "center";
    context.font = `${weight} ${size}px system-ui, sans-serif`;
    context.fillText(text, x, y);
  }
}
