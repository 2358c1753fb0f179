import { inflate } from "./inflate.js";

/** Columns by name from their packed form (see pack.py): Float64Array, whole numbers below 2^53. */
export async function unpack(text, size, columns) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const block = await decompress(packed, size);
  const out = {};
  let at = 0;
  for (const { name, length, width, differences } of columns) {
    const values = new Float64Array(length);
    for (let plane = 0, scale = 1; plane < width; plane++, scale *= 256) {
      for (let i = 0; i < length; i++) values[i] += block[at + i] * scale;
      at += length;
    }
    if (differences) for (let i = 1; i < length; i++) values[i] += values[i - 1];
    out[name] = values;
  }
  return out;
}

async function decompress(packed, size) {
  if (typeof DecompressionStream === "undefined") return inflate(packed, size);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
