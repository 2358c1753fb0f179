// Deflate (RFC 1951) for browsers without DecompressionStream.
const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [
  1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289,
  16385, 24577,
];
const DISTANCE_BITS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
const ORDER_OF_LENGTHS = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** Decompress a zlib stream (Uint8Array) of known uncompressed size. */
export function inflate(input, size) {
  const output = new Uint8Array(size);
  let at = 2; // after the zlib header
  let buffer = 0;
  let held = 0;
  let written = 0;
  const bits = (count) => {
    while (held < count) {
      buffer |= input[at++] << held;
      held += 8;
    }
    const value = buffer & ((1 << count) - 1);
    buffer >>>= count;
    held -= count;
    return value;
  };
  const symbol = (code) => {
    let value = 0;
    let first = 0;
    let index = 0;
    for (let length = 1; length < 16; length++) {
      value |= bits(1);
      const count = code.counts[length];
      if (value - count < first) return code.symbols[index + value - first];
      index += count;
      first = (first + count) << 1;
      value <<= 1;
    }
    throw new Error("the packed data are damaged");
  };
  const fixed = () => {
    const lengths = new Array(288).fill(8, 0, 144).fill(9, 144, 256).fill(7, 256, 280).fill(8, 280, 288);
    return [huffman(lengths), huffman(new Array(30).fill(5))];
  };
  const dynamic = () => {
    const nLiterals = bits(5) + 257;
    const nDistances = bits(5) + 1;
    const nLengths = bits(4) + 4;
    const lengths = new Array(19).fill(0);
    for (let i = 0; i < nLengths; i++) lengths[ORDER_OF_LENGTHS[i]] = bits(3);
    const code = huffman(lengths);
    const all = [];
    while (all.length < nLiterals + nDistances) {
      const next = symbol(code);
      if (next < 16) all.push(next);
      else {
        const value = next === 16 ? all[all.length - 1] : 0;
        const repeat = next === 16 ? 3 + bits(2) : next === 17 ? 3 + bits(3) : 11 + bits(7);
        for (let i = 0; i < repeat; i++) all.push(value);
      }
    }
    return [huffman(all.slice(0, nLiterals)), huffman(all.slice(nLiterals))];
  };
  for (let last = 0; !last; ) {
    last = bits(1);
    const type = bits(2);
    if (type === 0) {
      buffer = held = 0;
      const length = input[at] | (input[at + 1] << 8);
      output.set(input.subarray(at + 4, at + 4 + length), written);
      at += 4 + length;
      written += length;
      continue;
    }
    const [literals, distances] = type === 1 ? fixed() : dynamic();
    for (let next = symbol(literals); next !== 256; next = symbol(literals)) {
      if (next < 256) output[written++] = next;
      else {
        const length = LENGTH_BASE[next - 257] + bits(LENGTH_BITS[next - 257]);
        const code = symbol(distances);
        const from = written - (DISTANCE_BASE[code] + bits(DISTANCE_BITS[code]));
        for (let i = 0; i < length; i++) output[written++] = output[from + i];
      }
    }
  }
  return output;
}

function huffman(lengths) {
  const counts = new Uint16Array(16);
  for (const length of lengths) counts[length]++;
  counts[0] = 0;
  const offsets = new Uint16Array(16);
  for (let i = 1; i < 15; i++) offsets[i + 1] = offsets[i] + counts[i];
  const symbols = new Uint16Array(lengths.length);
  lengths.forEach((length, value) => {
    if (length) symbols[offsets[length]++] = value;
  });
  return { counts, symbols };
}
