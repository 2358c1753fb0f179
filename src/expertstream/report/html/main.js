import { Activities } from "./activities.js";
import { GUTTER, RIGHT } from "./canvas.js";
import { formatTime } from "./format.js";
import { Levels, Use } from "./lines.js";
import { Replay } from "./replay.js";
import { Run } from "./run.js";
import { State } from "./state.js";

const shown = new Map(); // number of a run: its views
let current = null;

/** Build the views of a run when it is first shown. */
async function build(number) {
  const run = await Run.load(number);
  const state = new State(run.latency);
  const views = {
    number,
    state,
    replay: new Replay(run, state, number),
    use: new Use(run, state, number),
    activities: new Activities(run, state, number),
    levels: new Levels(run, state, number),
  };
  const at = (name) => document.getElementById(`${name}-${number}`);
  const cursors = [views.use, views.activities].map(({ canvas }) => {
    const line = document.createElement("div");
    line.className = "cursor screen-only";
    canvas.after(line);
    return line;
  });
  const placeCursors = () => {
    const wide = views.use.canvas.parentElement.clientWidth - GUTTER - RIGHT;
    const share = (state.time - state.from) / (state.to - state.from);
    for (const line of cursors) {
      line.hidden = share < 0 || share > 1;
      line.style.transform = `translateX(${GUTTER + share * wide}px)`;
    }
  };
  const tellWindow = () => {
    const span = state.to - state.from;
    at("window").textContent = `${formatTime(state.from, span / 100)} to ${formatTime(state.to, span / 100)}`;
  };
  views.redraw = () => {
    for (const view of [views.replay, views.use, views.activities, views.levels]) view.drawNow();
    placeCursors();
  };
  state.listen((what) => {
    if (what === "window") {
      for (const view of [views.use, views.activities, views.levels]) view.draw();
      tellWindow();
    }
    if (what === "expert") {
      views.activities.draw();
      at("focus").disabled = state.expert === null;
    }
    placeCursors();
    const { playing } = views.replay;
    if (what === "time" && playing && (state.time < state.from || state.time > state.to)) {
      state.setWindow(state.time, state.time + state.to - state.from); // the window turns like a page
    }
  });
  at("in").addEventListener("click", () => state.zoom(0.5, clampedTime(state)));
  at("out").addEventListener("click", () => state.zoom(2, clampedTime(state)));
  at("fit").addEventListener("click", () => state.setWindow(0, state.latency));
  at("focus").addEventListener("click", () => {
    const { rows, end } = run.ofExpert(state.expert);
    if (!rows.length) return;
    const [from, to] = [run.start[rows[0]], end];
    state.setWindow(from - 0.1 * (to - from), to + 0.1 * (to - from));
  });
  tellWindow();
  return views;
}

/** Zoom about the replay's time where it is in view. */
function clampedTime(state) {
  return state.time > state.from && state.time < state.to ? state.time : (state.from + state.to) / 2;
}

async function show(number) {
  current?.replay.pause();
  for (const article of document.querySelectorAll("article.run")) article.hidden = article.id !== `run-${number}`;
  if (!shown.has(number)) shown.set(number, await build(number));
  current = shown.get(number);
  current.redraw();
  document.documentElement.dataset.ready = String(number);
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const theme = document.getElementById("theme");
let printing = false;

function isDark() {
  return (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
}

function themed() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Change to the ${isDark() ? "light" : "dark"} theme`);
  current?.redraw();
}

theme.hidden = false;
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  themed();
});
dark.addEventListener("change", themed);

/** Canvases keep the colours and the width that they were drawn with: draw them for the paper, and then again. */
function print(starts) {
  if (printing === starts) return;
  printing = starts;
  current?.replay.pause();
  current?.redraw();
}
window.addEventListener("beforeprint", () => print(true));
window.addEventListener("afterprint", () => print(false));
window.matchMedia("print").addEventListener("change", (event) => print(event.matches));

new ResizeObserver(() => current?.redraw()).observe(document.getElementById("report"));

document.addEventListener("keydown", (event) => {
  const busy = event.target.closest("button, select, input, summary, a, textarea");
  if (!current || busy || event.ctrlKey || event.altKey || event.metaKey) return;
  const actions = {
    " ": () => current.replay.toggle(),
    ".": () => current.replay.step(1),
    ",": () => current.replay.step(-1),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});

const picker = document.getElementById("run");
picker?.addEventListener("change", () => show(Number(picker.value)));
themed();
const firstShown = document.querySelector("article.run:not([hidden])");
if (firstShown) await show(Number(firstShown.id.slice("run-".length)));
else document.documentElement.dataset.ready = "none";
