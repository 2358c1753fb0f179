const TIMES = [
  [1e12, "s"],
  [1e9, "ms"],
  [1e6, "us"],
  [1e3, "ns"],
  [1, "ps"],
];

/** Picoseconds in words; `step` is the smallest difference that must show. */
export function formatTime(ps, step = 0) {
  const [unit, name] = TIMES.find(([unit]) => Math.abs(ps) >= unit) ?? TIMES[4];
  const digits = step > 0 ? Math.max(0, Math.ceil(Math.log10(unit / step))) : ps / unit >= 100 ? 1 : 2;
  return `${(ps / unit).toFixed(unit === 1 ? 0 : Math.min(digits, Math.log10(unit)))} ${name}`;
}

/** Bytes in words. */
export function formatBytes(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; bytes >= 1024 && i < 4; i++) bytes /= 1024;
  return `${i ? bytes.toPrecision(bytes >= 1000 ? 4 : 3) : bytes} ${units[i]}`;
}

/** A number with its noun. */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Times at round numbers within [from, to], at most about `most` of them, and the step between them. */
export function ticks(from, to, most) {
  const least = (to - from) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least);
  const out = [];
  for (let time = Math.ceil(from / step) * step; time <= to; time += step) out.push(time);
  return { step, times: out };
}
