import { unpack } from "./unpack.js";
import { count, formatBytes } from "./format.js";

export const LOAD = 0;
export const SEND = 1;
export const COMPUTE = 2;
/** Lanes of a die in the timeline, in order. */
export const LANES = ["receive", "load", "compute", "send"];

/** What one resource did: its activities in order of time, never two at once. */
export class Track {
  constructor(rows, run) {
    this.rows = rows;
    this.start = Float64Array.from(rows, (row) => run.start[row]);
    this.end = Float64Array.from(rows, (row) => run.end[row]);
  }

  /** Index of the first activity that ends after `time`. */
  after(time) {
    let low = 0;
    let high = this.end.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.end[middle] > time) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Row under way at `time`, or -1. */
  at(time) {
    const index = this.after(time);
    return index < this.rows.length && this.start[index] <= time ? this.rows[index] : -1;
  }

  /** Add the busy share of each of `shares.length` equal parts of [from, to], times `weightOf(row)`, to `shares`. */
  addShares(shares, from, to, weightOf) {
    const width = (to - from) / shares.length;
    for (let i = this.after(from); i < this.start.length && this.start[i] < to; i++) {
      const weight = weightOf(this.rows[i]);
      if (weight === 0) continue;
      const first = Math.max(this.start[i], from);
      const last = Math.min(this.end[i], to);
      let part = Math.min(shares.length - 1, Math.floor((first - from) / width));
      const end = Math.min(shares.length - 1, Math.floor((last - from) / width));
      if (part === end) {
        shares[part] += (weight * (last - first)) / width;
        continue;
      }
      shares[part] += weight * (part + 1 - (first - from) / width);
      while (++part < end) shares[part] += weight;
      shares[end] += weight * ((last - from) / width - end);
    }
  }
}

/** One run: its columns, and the tracks that the views draw. */
export class Run {
  static async load(number) {
    const about = JSON.parse(document.getElementById(`about-${number}`).textContent);
    const columns = await unpack(document.getElementById(`data-${number}`).textContent, about.size, about.columns);
    return new Run(about, columns);
  }

  constructor(about, columns) {
    Object.assign(this, about, columns);
    this.nDies = this.rows * this.cols;
    const n = this.start.length;
    this.end = new Float64Array(n);
    this.hops = new Uint8Array(n);
    /** Expert of each row, -1 for traffic of tokens. */
    this.expert = new Int32Array(n);
    for (let row = 0; row < n; row++) {
      this.end[row] = this.start[row] + this.busy[row];
      const slice = this.chunkSlice[this.chunk[row]] - 1;
      this.expert[row] = slice < 0 ? -1 : this.sliceExpert[slice];
    }
    this.pathStart = new Float64Array(this.pathLength.length);
    for (let i = 1; i < this.pathStart.length; i++) this.pathStart[i] = this.pathStart[i - 1] + this.pathLength[i - 1];
    this.#buildTracks();
    this.#buildLevels();
  }

  /** Numbers of the links of the path from die `a` to die `b`, in order. */
  path(a, b) {
    const pair = a * this.nDies + b;
    return this.pathLinks.subarray(this.pathStart[pair], this.pathStart[pair] + this.pathLength[pair]);
  }

  expertName(expert) {
    return expert < this.routedExperts ? `expert ${expert}` : `shared expert ${expert - this.routedExperts}`;
  }

  shortName(expert) {
    return expert < 0 ? "tokens" : expert < this.routedExperts ? `e${expert}` : `s${expert - this.routedExperts}`;
  }

  /** Tokens of an expert on a die, or on all dies. */
  tokensOf(expert, die = null) {
    if (die !== null) return this.expertTokens[expert * this.nDies + die];
    let sum = 0;
    for (let i = 0; i < this.nDies; i++) sum += this.expertTokens[expert * this.nDies + i];
    return sum;
  }

  /** What a row does, in words. */
  describe(row) {
    const chunk = this.chunk[row];
    const slice = this.chunkSlice[chunk] - 1;
    const expert = this.expert[row];
    const what = slice < 0 ? "tokens" : `${this.expertName(expert)}, columns ${this.sliceFirst[slice]} to ${this.sliceEnd[slice] - 1}`;
    const size = formatBytes(this.chunkBytes[chunk]);
    if (this.kind[row] === COMPUTE) return `computes ${what}, for ${count(this.tokens[row], "token")}`;
    if (this.kind[row] === LOAD) return `loads ${what} from DDR channel ${this.resource[row]} into die ${this.die[row]}, ${size}`;
    return `sends ${what} from die ${this.source[row] - 1} to die ${this.die[row]}, ${size}`;
  }

  #buildTracks() {
    const byKey = new Map();
    const add = (lane, die, part, row) => {
      const key = (die * 4 + lane) * 4096 + part;
      if (!byKey.has(key)) byKey.set(key, { lane, die, rows: [] });
      byKey.get(key).rows.push(row);
    };
    for (let row = 0; row < this.start.length; row++) {
      const die = this.die[row];
      if (this.kind[row] === COMPUTE) add(2, die, 0, row);
      else if (this.kind[row] === LOAD) add(1, die, this.resource[row], row);
      else {
        const source = this.source[row] - 1;
        const links = this.path(source, die);
        this.hops[row] = links.length;
        add(0, die, links.at(-1), row);
        add(3, source, this.resource[row], row);
      }
    }
    this.tracks = [];
    /** lanes[die][lane]: the tracks of a lane; a die may receive over several links at once. */
    this.lanes = Array.from({ length: this.nDies }, () => [[], [], [], []]);
    for (const key of [...byKey.keys()].sort((a, b) => a - b)) {
      const { lane, die, rows } = byKey.get(key);
      const track = new Track(Int32Array.from(rows), this);
      track.lane = lane;
      track.die = die;
      this.tracks.push(track);
      this.lanes[die][lane].push(track);
    }
    this.experted = new Map();
  }

  #buildLevels() {
    this.levels = [];
    let at = 0;
    for (const length of this.levelCount) {
      const time = this.levelTime.slice(at, at + length);
      for (let i = 1; i < length; i++) time[i] += time[i - 1];
      this.levels.push({ time, bytes: this.levelBytes.subarray(at, at + length) });
      at += length;
    }
  }

  /** Bytes held in a buffer (0 weights, 1 tokens) of a die at `time`. */
  held(die, pool, time) {
    const { time: times, bytes } = this.levels[2 * die + pool];
    let low = 0;
    let high = times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] > time) high = middle;
      else low = middle + 1;
    }
    return low ? bytes[low - 1] : 0;
  }

  /** Activities of an expert: rows, sorted starts, use of each link, and the stays of its micro-slices on dies. */
  ofExpert(expert) {
    if (this.experted.has(expert)) return this.experted.get(expert);
    const rows = [];
    const here = new Map(); // (chunk, die): the stay that has begun
    const stays = [];
    const linkUse = new Map();
    for (let row = 0; row < this.start.length; row++) {
      if (this.expert[row] !== expert) continue;
      rows.push(row);
      const chunk = this.chunk[row];
      if (this.kind[row] !== COMPUTE) {
        const stay = { die: this.die[row], from: this.start[row], to: this.end[row] };
        here.set(chunk * this.nDies + stay.die, stay);
        stays.push(stay);
      }
      const from = this.kind[row] === SEND ? this.source[row] - 1 : this.die[row];
      const stay = here.get(chunk * this.nDies + from);
      if (stay) stay.to = Math.max(stay.to, this.end[row]);
      if (this.kind[row] === SEND) {
        for (const link of this.path(from, this.die[row])) linkUse.set(link, (linkUse.get(link) ?? 0) + 1);
      }
    }
    const starts = Float64Array.from(rows, (row) => this.start[row]);
    const found = { rows, starts, stays, linkUse, end: rows.reduce((last, row) => Math.max(last, this.end[row]), 0) };
    this.experted.set(expert, found);
    return found;
  }
}
