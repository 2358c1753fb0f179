import { formatTime, ticks } from "./format.js";

/** Space left of the time axis, in CSS pixels. */
export const GUTTER = 76;
/** Space right of it. */
export const RIGHT = 14;
export const AXIS = 22;

/** Size a canvas to its parent's width and `height`, both in CSS pixels; return its context, scaled, and its width. */
export function prepare(canvas, height) {
  const width = Math.max(240, canvas.parentElement.clientWidth);
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  return { context, width, ratio };
}

/** The page's colours by name, as they are in the present theme. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["surface", "panel", "text", "muted", "line", "compute", "load", "send", "receive", "accent"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Red, green and blue of a "#rrggbb". */
export function rgb(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

/** Time axis at `y`, with its grid lines up to `top`. */
export function drawAxis(context, state, left, width, top, y, colour) {
  const { step, times } = ticks(state.from, state.to, width / 110);
  const x = (time) => left + ((time - state.from) / (state.to - state.from)) * width;
  context.textAlign = "center";
  context.font = "11px system-ui, sans-serif";
  for (const time of times) {
    context.fillStyle = colour.line;
    context.fillRect(Math.round(x(time)), top, 1, y - top + 4);
    context.fillStyle = colour.muted;
    const label = formatTime(time, step);
    const half = context.measureText(label).width / 2;
    context.fillText(label, Math.min(Math.max(x(time), left + half + 4), left + width - half + RIGHT), y + 12);
  }
}

/** Run `draw` once before the next frame, however often it is asked for. */
export function onFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}
