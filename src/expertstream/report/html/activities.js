import { formatTime } from "./format.js";
import { AXIS, GUTTER, RIGHT, colours, drawAxis, onFrame, prepare, rgb } from "./canvas.js";
import { LANES } from "./run.js";

const LANE_NAMES = ["receive", "DDR load", "compute", "send"];
const ROOM = 14; // CSS pixels per activity from which on it is drawn as a box of its own
const DIM = 0.22; // of what does not belong to the followed expert

/**
 * The activities of every die, a lane per kind. A picture column that holds many activities shows the share of it for
 * which the lane is busy, computed exactly; where there is room, activities are boxes.
 */
export class Activities {
  constructor(run, state, number) {
    this.run = run;
    this.state = state;
    this.canvas = document.getElementById(`activities-${number}`);
    this.tip = document.getElementById(`tip-${number}`);
    this.pixels = document.createElement("canvas");
    this.draw = onFrame(() => this.drawNow());
    this.#listen();
  }

  #layout() {
    const n = this.run.nDies;
    this.laneHeight = n <= 4 ? 15 : n <= 9 ? 11 : n <= 16 ? 9 : n <= 36 ? 6 : 4;
    this.dieHeight = 4 * this.laneHeight + (n <= 16 ? 10 : 6);
    return n * this.dieHeight + AXIS;
  }

  drawNow() {
    const height = this.#layout();
    const { context, width, ratio } = prepare(this.canvas, height);
    const { run, state } = this;
    const colour = colours();
    const wide = width - GUTTER - RIGHT;
    this.wide = wide;
    for (let die = 0; die < run.nDies; die++) {
      const top = die * this.dieHeight;
      context.fillStyle = colour.panel;
      context.fillRect(GUTTER, top, wide, 4 * this.laneHeight);
      context.fillStyle = colour.text;
      context.textAlign = "left";
      const named = this.laneHeight >= 11;
      context.font = "600 12px system-ui, sans-serif";
      if (!named) context.fillText(`die ${die}`, 0, top + 2 * this.laneHeight);
      else {
        context.save();
        context.translate(8, top + 2 * this.laneHeight);
        context.rotate(-Math.PI / 2);
        context.textAlign = "center";
        context.fillText(`die ${die}`, 0, 0);
        context.restore();
        context.font = "10.5px system-ui, sans-serif";
        context.fillStyle = colour.muted;
        LANES.forEach((_, lane) => context.fillText(LANE_NAMES[lane], 22, top + (lane + 0.5) * this.laneHeight));
      }
    }
    drawAxis(context, state, GUTTER, wide, 0, height - AXIS, colour);
    this.#drawTracks(context, wide, ratio, colour);
  }

  #drawTracks(context, wide, ratio, colour) {
    const { run, state } = this;
    const columns = Math.max(1, Math.round(wide * ratio));
    const image = new ImageData(columns, run.tracks.length);
    const inks = LANES.map((lane) => rgb(colour[lane]));
    const boxes = [];
    const shares = new Float64Array(columns);
    const followed = state.expert === null ? null : new Float64Array(columns);
    run.tracks.forEach((track, number) => {
      if ((track.after(state.to) - track.after(state.from)) * ROOM < wide) {
        boxes.push(track);
        return;
      }
      shares.fill(0);
      track.addShares(shares, state.from, state.to, () => 1);
      followed?.fill(0);
      if (followed) track.addShares(followed, state.from, state.to, (row) => (run.expert[row] === state.expert ? 1 : 0));
      const [r, g, b] = inks[track.lane];
      for (let i = 0, at = number * columns * 4; i < columns; i++, at += 4) {
        const share = followed ? followed[i] + DIM * (shares[i] - followed[i]) : shares[i];
        if (share <= 0) continue;
        image.data[at] = r;
        image.data[at + 1] = g;
        image.data[at + 2] = b;
        // A lone activity in a column must not vanish, above all that of the followed expert.
        const least = followed?.[i] > 0 ? 0.7 : 0;
        image.data[at + 3] = 255 * Math.max(least, Math.min(1, share) ** 0.6); // the eye sees faint inks as fainter
      }
    });
    this.pixels.width = columns;
    this.pixels.height = run.tracks.length;
    this.pixels.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    run.tracks.forEach((track, number) => {
      const [y, height] = this.#band(track);
      context.drawImage(this.pixels, 0, number, columns, 1, GUTTER, y, wide, height);
    });
    for (const track of boxes) this.#drawBoxes(context, track, wide, colour);
  }

  #band(track) {
    const lane = this.run.lanes[track.die][track.lane];
    const height = this.laneHeight / lane.length;
    const top = track.die * this.dieHeight + track.lane * this.laneHeight + lane.indexOf(track) * height;
    return [top + 0.5, Math.max(1, height - 1)];
  }

  #drawBoxes(context, track, wide, colour) {
    const { run, state } = this;
    const scale = wide / (state.to - state.from);
    const [y, height] = this.#band(track);
    context.save();
    context.beginPath();
    context.rect(GUTTER, y - 1, wide, height + 2);
    context.clip();
    context.textAlign = "left";
    context.font = `${Math.min(11, height - 1)}px system-ui, sans-serif`;
    for (let i = track.after(state.from); i < track.rows.length && track.start[i] < state.to; i++) {
      const x = GUTTER + (track.start[i] - state.from) * scale;
      const width = Math.max(1, (track.end[i] - track.start[i]) * scale - 1);
      const expert = run.expert[track.rows[i]];
      const dim = state.expert !== null && expert !== state.expert;
      context.globalAlpha = dim ? DIM : 1;
      context.fillStyle = colour[LANES[track.lane]];
      context.fillRect(x, y, width, height);
      const name = run.shortName(expert);
      if (height >= 9 && width > 6 * name.length + 6) {
        context.globalAlpha = 1;
        context.fillStyle = dim ? colour.muted : colour.surface;
        context.fillText(name, Math.max(x, GUTTER) + 3, y + height / 2 + 0.5);
      }
    }
    context.restore();
  }

  #timeAt(x) {
    return this.state.from + ((x - GUTTER) / this.wide) * (this.state.to - this.state.from);
  }

  /** Row at a place of the canvas, within three pixels, or -1. */
  rowAt(x, y) {
    const die = Math.floor(y / this.dieHeight);
    const lane = Math.floor((y - die * this.dieHeight) / this.laneHeight);
    if (x < GUTTER || die >= this.run.nDies || lane > 3) return -1;
    const tracks = this.run.lanes[die][lane];
    const track = tracks[Math.floor(((y - die * this.dieHeight) / this.laneHeight - lane) * tracks.length)];
    if (!track) return -1;
    const slack = (3 / this.wide) * (this.state.to - this.state.from);
    const time = this.#timeAt(x);
    const index = track.after(time - slack);
    return index < track.rows.length && track.start[index] <= time + slack ? track.rows[index] : -1;
  }

  #listen() {
    const { canvas, state } = this;
    let pressed = null;
    canvas.addEventListener("pointerdown", (event) => {
      pressed = { x: event.offsetX, from: state.from, to: state.to, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!pressed) {
        this.#showTip(event);
        return;
      }
      pressed.moved ||= Math.abs(event.offsetX - pressed.x) > 4;
      if (!pressed.moved) return;
      this.tip.hidden = true;
      const by = ((pressed.x - event.offsetX) / this.wide) * (pressed.to - pressed.from);
      state.setWindow(pressed.from + by, pressed.to + by);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (pressed && !pressed.moved && event.offsetX >= GUTTER) {
        const row = this.rowAt(event.offsetX, event.offsetY);
        state.setTime(this.#timeAt(event.offsetX));
        if (row >= 0 && this.run.expert[row] >= 0) state.follow(this.run.expert[row]);
      }
      pressed = null;
    });
    canvas.addEventListener("pointercancel", () => (pressed = null));
    canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    canvas.addEventListener("dblclick", (event) => state.zoom(0.4, this.#timeAt(event.offsetX)));
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (event.ctrlKey || event.metaKey) {
          event.preventDefault(); // else the browser zooms the page
          state.zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY * 0.01))), this.#timeAt(event.offsetX));
        } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
          event.preventDefault();
          state.pan((event.deltaX || event.deltaY) / this.wide);
        }
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      const actions = {
        ArrowLeft: () => state.pan(-0.2),
        ArrowRight: () => state.pan(0.2),
        "+": () => state.zoom(0.6),
        "=": () => state.zoom(0.6),
        "-": () => state.zoom(1 / 0.6),
        Home: () => state.setWindow(0, state.latency),
      };
      if (event.ctrlKey || event.altKey || event.metaKey || !actions[event.key]) return;
      event.preventDefault();
      actions[event.key]();
    });
  }

  #showTip(event) {
    const row = this.rowAt(event.offsetX, event.offsetY);
    this.tip.hidden = row < 0;
    if (row < 0) return;
    const { start, busy } = this.run;
    this.tip.textContent = `${this.run.describe(row)}; ${formatTime(busy[row])} from ${formatTime(start[row], busy[row] / 10)}`;
    this.tip.style.left = `${Math.min(event.offsetX + 12, Math.max(0, this.canvas.clientWidth - 270))}px`;
    this.tip.style.top = `${event.offsetY + 18}px`;
  }
}
