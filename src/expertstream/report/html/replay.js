import { onFrame, prepare } from "./canvas.js";
import { count, formatTime } from "./format.js";
import { Mesh } from "./mesh.js";

const SCRUB = 10000; // steps of the slider
const SECONDS = [1000, 300, 100, 30, 10, 3]; // that a whole run takes, at the speeds offered
const USUAL = 30;

/** The replay: what every resource does at a time, and the controls of that time. */
export class Replay {
  constructor(run, state, number) {
    this.run = run;
    this.state = state;
    this.mesh = new Mesh(run);
    this.at = (name) => document.getElementById(`${name}-${number}`);
    this.canvas = this.at("mesh");
    this.playing = false;
    this.draw = onFrame(() => this.drawNow());
    this.#fillSpeeds();
    this.#fillExperts();
    this.#listen();
    this.#showTime();
    this.tell();
  }

  /** Rows under way at the present time: of each die, of each channel, and all transfers. */
  now() {
    const { run, state } = this;
    const found = { computes: new Array(run.nDies).fill(-1), loads: {}, sends: [], receives: [] };
    for (const track of run.tracks) {
      const row = track.at(state.time);
      if (row < 0) continue;
      if (track.lane === 2) found.computes[track.die] = row;
      else if (track.lane === 1) found.loads[run.resource[row]] = row;
      else if (track.lane === 3) found.sends.push(row);
    }
    return found;
  }

  drawNow() {
    const width = Math.max(240, this.canvas.parentElement.clientWidth);
    const { context } = prepare(this.canvas, this.mesh.fit(width));
    this.mesh.draw(context, this.state, this.now());
  }

  #showTime() {
    this.at("scrub").value = String(Math.round((this.state.time / this.state.latency) * SCRUB));
    const clock = `${formatTime(this.state.time, this.state.latency / 1e4)} of ${formatTime(this.state.latency)}`;
    this.at("clock").textContent = clock;
    this.at("scrub").setAttribute("aria-valuetext", clock);
  }

  play() {
    if (this.playing) return;
    if (this.state.time >= this.state.latency) this.state.setTime(0);
    this.playing = true;
    this.at("play").textContent = "Pause";
    this.at("status").setAttribute("aria-live", "off"); // nobody can listen to sixty frames a second
    let before = null;
    let told = 0;
    const frame = (moment) => {
      if (!this.playing) return;
      if (before !== null) this.state.setTime(this.state.time + ((moment - before) / 1000) * Number(this.at("speed").value));
      before = moment;
      if (moment - told > 250) {
        told = moment;
        this.tell();
      }
      if (this.state.time >= this.state.latency) this.pause();
      else requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  pause() {
    this.playing = false;
    this.at("play").textContent = "Play";
    this.at("status").setAttribute("aria-live", "polite");
    this.tell();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  /** Go to the next (1) or previous (-1) start of an activity, of the followed expert if there is one. */
  step(direction) {
    this.pause();
    const { run, state } = this;
    const starts = state.expert === null ? run.start : run.ofExpert(state.expert).starts;
    let low = 0;
    let high = starts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (direction > 0 ? starts[middle] > state.time : starts[middle] >= state.time) high = middle;
      else low = middle + 1;
    }
    const next = direction > 0 ? starts[low] : starts[low - 1];
    state.setTime(next ?? (direction > 0 ? state.latency : 0));
    this.tell();
  }

  /** Say in words what happens now. */
  tell() {
    const { run, state } = this;
    const now = this.now();
    const computing = now.computes.filter((row) => row >= 0).length;
    let text =
      `At ${formatTime(state.time, state.latency / 1e4)}: ${computing} of ${count(run.nDies, "MAC array")} computing, ` +
      `${count(Object.keys(now.loads).length, "DDR channel")} loading, ${count(now.sends.length, "transfer")} under way.`;
    if (state.expert !== null) text += ` ${this.#about(state.expert)}`;
    this.at("status").textContent = text;
    this.#fillTable(now);
  }

  #about(expert) {
    const { run } = this;
    const { rows, end } = run.ofExpert(expert);
    const dies = [];
    for (let die = 0; die < run.nDies; die++) if (run.tokensOf(expert, die)) dies.push(`${run.tokensOf(expert, die)} on die ${die}`);
    const name = run.expertName(expert);
    if (!rows.length) return `${name[0].toUpperCase()}${name.slice(1)} does nothing.`;
    const where = dies.length > 8 ? `${dies.slice(0, 8).join(", ")} and ${dies.length - 8} more dies` : dies.join(", ");
    return (
      `${name[0].toUpperCase()}${name.slice(1)}: ${count(run.tokensOf(expert), "token")} (${where}); ` +
      `first activity at ${formatTime(run.start[rows[0]])}, last ends at ${formatTime(end)}.`
    );
  }

  #fillTable(now) {
    const body = this.at("now").tBodies[0];
    if (!body.closest("details").open) return;
    const { run } = this;
    const cells = Array.from({ length: run.nDies }, () => [[], [], [], []]);
    for (const row of now.sends) {
      cells[run.die[row]][0].push(`${run.shortName(run.expert[row])} from die ${run.source[row] - 1}`);
      cells[run.source[row] - 1][3].push(`${run.shortName(run.expert[row])} to die ${run.die[row]}`);
    }
    for (const row of Object.values(now.loads)) cells[run.die[row]][1].push(run.shortName(run.expert[row]));
    now.computes.forEach((row, die) => {
      if (row >= 0) cells[die][2].push(`${run.shortName(run.expert[row])}, ${count(run.tokens[row], "token")}`);
    });
    body.replaceChildren(
      ...cells.map((lanes, die) => {
        const line = document.createElement("tr");
        const head = document.createElement("th");
        head.scope = "row";
        head.textContent = `die ${die}`;
        line.append(head);
        for (const texts of lanes) line.insertCell().textContent = texts.join("; ") || "–";
        return line;
      }),
    );
  }

  #fillSpeeds() {
    for (const seconds of SECONDS) {
      const wanted = this.state.latency / seconds;
      const power = 10 ** Math.floor(Math.log10(Math.max(1, wanted)));
      const rate = power * (wanted / power >= 5 ? 5 : wanted / power >= 2 ? 2 : 1);
      const option = new Option(`${formatTime(rate).replace(/\.0+ /, " ")} per second`, String(rate));
      option.defaultSelected = option.selected = seconds === USUAL;
      this.at("speed").add(option);
    }
  }

  #fillExperts() {
    const { run } = this;
    const select = this.at("expert");
    select.add(new Option("all experts", ""));
    const active = [];
    for (let expert = 0; expert < run.experts; expert++) if (run.tokensOf(expert)) active.push(expert);
    active.sort((a, b) => run.tokensOf(b) - run.tokensOf(a) || a - b);
    for (const expert of active) {
      select.add(new Option(`${run.expertName(expert)} (${count(run.tokensOf(expert), "token")})`, String(expert)));
    }
  }

  #listen() {
    const { state, run } = this;
    this.at("play").addEventListener("click", () => this.toggle());
    this.at("next").addEventListener("click", () => this.step(1));
    this.at("back").addEventListener("click", () => this.step(-1));
    this.at("first").addEventListener("click", () => {
      state.setTime(0);
      this.tell();
    });
    this.at("scrub").addEventListener("input", () => {
      this.pause();
      state.setTime((Number(this.at("scrub").value) / SCRUB) * state.latency);
      this.tell();
    });
    this.at("expert").addEventListener("change", () => {
      const value = this.at("expert").value;
      state.follow(value === "" ? null : Number(value));
      if (state.expert !== null) this.#goTo(state.expert);
    });
    this.at("now").closest("details").addEventListener("toggle", () => this.tell());
    this.canvas.addEventListener("click", (event) => {
      const die = this.mesh.dieAt(event.offsetX, event.offsetY);
      const row = die < 0 ? -1 : this.now().computes[die];
      state.follow(row < 0 || run.expert[row] === state.expert ? null : run.expert[row]);
    });
    state.listen((what) => {
      if (what === "expert") this.at("expert").value = state.expert === null ? "" : String(state.expert);
      if (what !== "window") this.draw();
      if (what === "time") this.#showTime();
      if (what === "expert" || (what === "time" && !this.playing)) this.tell();
    });
  }

  /** To the followed expert's first activity, unless some of it goes on now. */
  #goTo(expert) {
    const { rows, end } = this.run.ofExpert(expert);
    if (!rows.length) return;
    const first = this.run.start[rows[0]];
    if (this.state.time < first || this.state.time >= end) this.state.setTime(first);
  }
}
