// A reader, writer and merger of states, format version 2, and a check of the test vectors with it.
//
// Written from docs/state-format.md and the vectors in tests/golden alone, with no sight of the library's source: it
// is there to prove that the page suffices. Plain JavaScript, no packages. A Number is an IEEE binary64 and nothing is
// fused, so every operation on floats below is one rounded operation of the page. Integers that may exceed 2^53 are
// BigInt.
//
//     node reader.mjs GOLDEN_DIR [MERGES_FILE]

import { readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

// --------------------------------------------------------------------------------------------- floats and big integers

const scratch = new DataView(new ArrayBuffer(8));

/** The finite float x as [m, e], x = m · 2^e, m a BigInt with the sign. */
function integerAndExponent(x) {
  scratch.setFloat64(0, x);
  const bits = scratch.getBigUint64(0);
  const biased = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & 0xfffffffffffffn;
  const m = biased === 0 ? fraction : fraction | (1n << 52n);
  return [bits >> 63n ? -m : m, Math.max(biased, 1) - 1075];
}

const shifted = (n, places) => (places >= 0n ? n << places : n >> -places);

/** x · 2^places as an integer, rounded down; for most uses below it is exact. */
function fixedOf(x, places) {
  const [m, e] = integerAndExponent(x);
  return shifted(m, BigInt(e) + places);
}

const bitLength = (n) => (n === 0n ? 0 : n.toString(2).length);

/** n / 2^places as the nearest float, ties to even. */
function nearestFloat(n, places) {
  const size = n < 0n ? -n : n;
  if (size === 0n) return 0;
  const unit = Math.max(bitLength(size) - Number(places) - 53, -1074); // the exponent of the result's last bit
  const drop = BigInt(unit) + places;
  let m = shifted(size, -drop);
  if (drop > 0n) {
    const rest = size - (m << drop);
    const half = 1n << (drop - 1n);
    if (rest > half || (rest === half && m & 1n)) m += 1n;
  }
  const x = Number(m) * 2 ** unit;
  return n < 0n ? -x : x;
}

/** A float of the vectors: C99 hexadecimal, inf or nan. */
function floatOf(text) {
  if (text === "nan") return NaN;
  if (text === "inf") return Infinity;
  if (text === "-inf") return -Infinity;
  const [, sign, whole, fraction, exponent] = /^(-?)0x([0-9a-f]+)(?:\.([0-9a-f]*))?p([+-]\d+)$/.exec(text);
  const digits = BigInt("0x" + whole + (fraction ?? ""));
  const x = nearestFloat(digits, BigInt(4 * (fraction ?? "").length) - BigInt(exponent));
  return sign ? -x : x;
}

/** x rounded to an integer, ties to even: adding 1.5 · 2^52 leaves no room for a fraction. For |x| < 2^51. */
const roundedToInteger = (x) => x + 6755399441055744 - 6755399441055744;

/** exact(a + b − s), s = a + b. */
function errorOfSum(a, b, s) {
  const other = s - a;
  return (a - (s - other)) + (b - other);
}

/** exact(a · b − p), p = a · b. Where it underflows it is inexact, but then it is far too small to change a limb. */
function errorOfProduct(a, b, p) {
  const [aHigh, aLow] = halves(a);
  const [bHigh, bLow] = halves(b);
  return aLow * bLow - (((p - aHigh * bHigh) - aLow * bHigh) - aHigh * bLow);
}

/** a as the sum of two floats of at most 26 bits, so that their products are exact. */
function halves(a) {
  const wide = a * 134217729;
  const high = wide - (wide - a);
  return [high, a - high];
}

function floorDivide(n, by) {
  const quotient = n / by;
  return quotient * by > n ? quotient - 1n : quotient;
}

// ----------------------------------------------------------------- logarithms, in integers that count units of 2^−1400

const PLACES = 1400n; // fine enough for any float as it is, and for c and the results to far more digits than they keep
const ONE = 1n << PLACES;

/** atanh z for |z| well below 1. */
function fixedAtanh(z) {
  const square = (z * z) >> PLACES;
  let sum = 0n;
  let power = z;
  for (let i = 1n; power !== 0n && power !== -1n; i += 2n) { // rounding down ends at 0 or, from below, at −1
    sum += power / i;
    power = (power * square) >> PLACES;
  }
  return sum;
}

const LN_2 = 2n * fixedAtanh(ONE / 3n);

/** ln x for x > 0. */
function fixedLog(x) {
  let twos = BigInt(bitLength(x)) - PLACES - 1n;
  if (shifted(x, -twos) > ONE + ONE / 2n) twos += 1n; // the rest is from 3/4 to 3/2, so that the series converges fast
  const rest = shifted(x, -twos);
  return twos * LN_2 + 2n * fixedAtanh(((rest - ONE) << PLACES) / (rest + ONE));
}

// ----------------------------------------------------------------------------------------------------------- constants

let C; // the constants by their names in the file: floats, but integers as BigInt

function loadConstants(directory) {
  const [texts] = JSON.parse(readFileSync(join(directory, "constants_v2.json"), "utf8"));
  C = {};
  for (const [name, text] of Object.entries(texts)) {
    if (name === "EXP2_TABLE") C[name] = text.map((pair) => pair.map(floatOf));
    else C[name] = text.includes("0x") ? floatOf(text) : BigInt(text);
  }
}

const VERSION = 2;
const LIMB = 50n; // bits of a limb, and the step of bases
const NAN_BITS = 0x7ff8000000000000n;
const NO_LIMBS = [0n, 0n, 0n];
const MOST_COUNT = (1n << 63n) - 1n;

// --------------------------------------------------------------------------------------------- aggregations and scales

// values: of which values of a row there are sums of terms; factors: of which products of two there are exact sums.
const AGGREGATIONS = [
  { name: "logsumexp", values: [(x) => x], factors: [] },
  { name: "weighted_logsumexp", weights: true, values: [(x) => x], factors: [(x, w) => [w, 1]] },
  { name: "log_likelihood", natural: true, values: [(x) => x], factors: [(x) => [x, 1], (x) => [x, x]] },
  { name: "effective_sample_size", natural: true, values: [(x) => x, (x) => 2 * x], factors: [] },
  {
    name: "cross_entropy",
    natural: true,
    values: [(x) => x],
    factors: [(x, t) => (t === 0 ? [0, 0] : [x, t]), (x, t) => [t, 1]],
  },
  {
    name: "leave_one_out",
    natural: true,
    values: [(x) => x, (x) => -x, (x) => -2 * x], // but the first of those that are not kept
    factors: [(x) => [x, 1], (x) => [x, x]],
    smallest: true,
  },
  { name: "exact_sum", natural: true, values: [], factors: [(x) => [x, 1], (x) => [x, x]], terms: 1 },
  { name: "exact_sum", natural: true, values: [], factors: [(x) => [x, 1n], (x) => [x, x]], terms: 3 },
];

const isBase = (b) => b > 1 && b <= 1e100;
const isTemperature = (t) => t >= 1e-100 && t <= 1e100 && t !== 1;

// c: the fixed-point c of a parameter; allows: which parameters there are, only for scales with one.
const SCALES = [
  { name: "natural", c: () => ONE },
  { name: "base", c: (b) => fixedLog(fixedOf(b, PLACES)), allows: isBase },
  { name: "temperature", c: reciprocal, allows: isTemperature },
  { name: "decibel", c: () => fixedLog(10n * ONE) / 10n },
  { name: "magnitude", c: () => (fixedLog(10n * ONE) * 2n) / 5n, negated: true },
];

function reciprocal(t) {
  const [m, e] = integerAndExponent(t);
  return (1n << (PLACES - BigInt(e))) / m;
}

const scales = new Map();

/** The scale of a code and parameter with its pair c, one object for each so that terms can be kept with it. */
function scaleOf(code, parameter) {
  const key = `${code} ${parameter}`;
  let scale = scales.get(key);
  if (!scale) {
    const { c, negated = false } = SCALES[code];
    const exactC = c(parameter);
    const high = nearestFloat(exactC, PLACES);
    const low = nearestFloat(exactC - fixedOf(high, PLACES), PLACES);
    scale = { code, parameter, negated, natural: code === 0, high, low, terms: new Map() };
    scales.set(key, scale);
  }
  return scale;
}

// ----------------------------------------------------------------------------------------------------- terms and limbs

const isNear = (scale, x) => Math.abs(x * scale.high) < C.TOO_FAR;

/** The term of a near x, (A + B) 2^k, with its base and its limbs on the grid of that base. */
function termOf(scale, x) {
  let term = scale.terms.get(x);
  if (!term) {
    if (scale.terms.size >= 1e6) scale.terms.clear();
    term = computedTerm(scale, x);
    scale.terms.set(x, term);
  }
  return term;
}

function computedTerm(scale, x) {
  let y = x;
  let below = 0;
  if (!scale.natural) {
    y = x * scale.high;
    below = errorOfProduct(x, scale.high, y) + x * scale.low;
  }
  let turns = 0;
  let tail;
  if (Math.abs(y) < C.FAR) {
    const s = y + below;
    tail = errorOfSum(y, below, s);
    y = s;
  } else {
    turns = roundedToInteger(y * C.FAR_PER_UNIT);
    const w = turns * 2 ** 22;
    let near = y - w * C.FAR_1 - w * C.FAR_2 - w * C.FAR_3; // exact: the constants have few bits
    const s = near + below;
    below = errorOfSum(near, below, s);
    near = s;
    const last = w * C.FAR_4;
    y = near - last;
    tail = near - y - last + below;
  }
  const steps = roundedToInteger(y * C.STEPS_PER_UNIT);
  let r = y - steps * C.STEP_1 - steps * C.STEP_2; // exact, likewise
  r = r - (steps * C.STEP_3 - tail);
  const p = r + r * r * (0.5 + r * (C.E1 + r * (C.E2 + r * C.E3)));
  const whole = Math.floor(steps / 128);
  const [A, b] = C.EXP2_TABLE[steps - 128 * whole];
  const B = b + A * p;
  const k = BigInt(whole) + (BigInt(turns) << 22n);
  const base = baseOf(k);
  return { A, B, k, base, limbs: cut(A, B, Number(k - base)) };
}

/** The base of what is from 2^exponent to 2^(exponent + 1). */
const baseOf = (exponent) => LIMB * floorDivide(exponent + 1n, LIMB);

/** The limbs of (A + B) 2^shift, shift being the exponent relative to the base of the grid. */
function cut(A, B, shift) {
  let H = A * 2 ** shift;
  let L = B * 2 ** shift;
  const limbs = [];
  for (let j = 0; j < 3; j += 1) {
    const q = 2 ** (-50 * j);
    const a = roundedToInteger(H / q);
    const limb = roundedSum(a, L / q);
    limbs.push(BigInt(limb));
    H -= a * q;
    L -= (limb - a) * q;
  }
  return limbs;
}

/** exact(a + b) rounded to an integer, ties to even, a being an integer. The sum itself may not fit a float. */
function roundedSum(a, b) {
  const whole = Math.trunc(b);
  const rest = b - whole;
  const sum = a + whole;
  const up = Math.abs(rest) > 0.5 || (Math.abs(rest) === 0.5 && sum % 2 !== 0);
  return up ? sum + Math.sign(rest) : sum;
}

/** Limbs on the grid of the base from, put on that of the base to, which is not smaller. */
function moved(limbs, from, to) {
  const places = (to - from) / LIMB;
  if (places === 0n) return limbs;
  if (places === 1n) return [0n, limbs[0], limbs[1]];
  if (places === 2n) return [0n, 0n, limbs[0]];
  return NO_LIMBS;
}

const added = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
const times = (limbs, n) => limbs.map((limb) => limb * n);
const isZero = (limbs) => limbs.every((limb) => limb === 0n);
const equalLimbs = (a, b) => a.every((limb, j) => limb === b[j]);

/** What limbs stand for, in units of 2^(base − 100). */
const valueOfLimbs = ([first, second, third]) => (first << (2n * LIMB)) + (second << LIMB) + third;

// ------------------------------------------------------------------------------------------------ sums without weights

const ofNaN = () => ({ max: NaN, ties: 0n, second: -Infinity, limbs: NO_LIMBS });

function sumOf(scale, values) {
  if (values.some(Number.isNaN)) return ofNaN();
  const sum = { max: -Infinity, ties: 0n, second: -Infinity, limbs: NO_LIMBS };
  for (const x of values) if (x > sum.max) sum.max = x;
  for (const x of values) if (x === sum.max) sum.ties += 1n;
  if (!isNear(scale, sum.max)) return sum;
  const rest = values.filter((x) => x < sum.max && isNear(scale, x));
  for (const x of rest) if (x > sum.second) sum.second = x;
  for (const x of rest) {
    const { limbs, base } = termOf(scale, x);
    sum.limbs = added(sum.limbs, moved(limbs, base, termOf(scale, sum.second).base));
  }
  return sum;
}

function mergedSums(scale, one, two) {
  if (Number.isNaN(one.max) || Number.isNaN(two.max)) return ofNaN();
  const [larger, smaller] = one.max >= two.max ? [one, two] : [two, one];
  const sum = { max: larger.max, ties: larger.ties, second: -Infinity, limbs: NO_LIMBS };
  const equal = larger.max === smaller.max;
  if (equal) sum.ties += smaller.ties;
  if (!isNear(scale, larger.max)) return sum;
  const parts = [larger, smaller].filter((part) => part.second !== -Infinity);
  if (!equal && isNear(scale, smaller.max)) {
    parts.push({ second: smaller.max, limbs: times(termOf(scale, smaller.max).limbs, smaller.ties) });
  }
  if (parts.length === 0) return sum;
  sum.second = Math.max(...parts.map((part) => part.second));
  const base = termOf(scale, sum.second).base;
  for (const part of parts) {
    sum.limbs = added(sum.limbs, moved(part.limbs, termOf(scale, part.second).base, base));
  }
  return sum;
}

function checkSum(scale, count, { max, ties, second, limbs }) {
  checkMax(count, max);
  if (count === 0n || Number.isNaN(max)) demand(ties === 0n, "ties without values or of NaN");
  else demand(ties >= 1n && ties <= count, "ties are not from 1 to the count");
  // The page has no rule for this, but what it says of −inf leaves no other record.
  if (max === -Infinity) demand(ties === count, "values above a max of -inf");
  if (second === -Infinity) return demand(isZero(limbs), "a rest without a second");
  demand(isNear(scale, max), "a second below a max that is not near");
  demand(isNear(scale, second), "a second that is not near");
  demand(!Object.is(second, -0), "a second of -0.0");
  demand(second < max, "a second that is not below the max");
  demand(ties < count, "a second, but all values are ties");
  const others = count - ties;
  checkLimbs(limbs, others);
  const term = termOf(scale, second).limbs;
  demand(valueOfLimbs(limbs) >= valueOfLimbs(term), "a rest below the term of the second");
  if (others === 1n) demand(equalLimbs(limbs, term), "a rest of one value that is not its term");
}

function checkMax(count, max) {
  demand(!Object.is(max, -0), "a max of -0.0");
  if (count === 0n) demand(max === -Infinity, "a max without values");
}

function checkLimbs(limbs, most) {
  for (const limb of limbs) {
    const carry = limb >> LIMB;
    demand(carry >= -most && carry <= most, "a limb that is too large");
  }
}

// --------------------------------------------------------------------------------------------------- sums with weights

const weightedNothing = () => ({ max: -Infinity, base: C.NO_BASE, limbs: NO_LIMBS });
const weightedNaN = () => ({ max: NaN, base: C.NO_BASE, limbs: NO_LIMBS });

/** w = f · 2^g with 1 ≤ |f| < 2, w not 0. */
function normalized(w) {
  const [m, e] = integerAndExponent(w);
  const places = bitLength(m < 0n ? -m : m) - 1;
  return [Number(m) / 2 ** places, e + places];
}

/** The product (P + Q) 2^e, with its base and its limbs on the grid of that base. */
function product(P, Q, e) {
  const base = baseOf(e + (Math.abs(P) >= 2 ? 1n : 0n)); // |P| is from 1 to below 4
  return { base, limbs: cut(P, Q, Number(e - base)) };
}

function weightedSumOf(scale, pairs) {
  const rows = pairs.filter(([x, w]) => w !== 0 && x !== -Infinity);
  if (rows.some(([x]) => Number.isNaN(x))) return weightedNaN();
  let max = -Infinity;
  for (const [x] of rows) if (x > max) max = x;
  if (max === -Infinity) return weightedNothing();
  if (max === Infinity) {
    const signs = new Set(rows.filter(([x]) => x === max).map(([, w]) => Math.sign(w)));
    if (signs.size === 2) return weightedNaN();
    return { max, base: C.NO_BASE, limbs: [BigInt([...signs][0]), 0n, 0n] };
  }
  const far = !isNear(scale, max);
  const products = [];
  for (const [x, w] of rows) {
    const [f, g] = normalized(w);
    if (far) {
      if (x === max) products.push(product(f, 0, BigInt(g)));
    } else if (isNear(scale, x)) {
      const { A, B, k } = termOf(scale, x);
      const P = f * A;
      products.push(product(P, errorOfProduct(f, A, P) + f * B, BigInt(g) + k));
    }
  }
  let base = products[0].base;
  for (const one of products) if (one.base > base) base = one.base;
  let limbs = NO_LIMBS;
  for (const one of products) limbs = added(limbs, moved(one.limbs, one.base, base));
  return { max, base: far ? base + C.FAR_BASE : base, limbs };
}

const isNearBase = (base) => base !== C.NO_BASE && base < C.FAR_BASE / 2n;

function mergedWeightedSums(one, two) {
  if (Number.isNaN(one.max) || Number.isNaN(two.max)) return weightedNaN();
  const [larger, smaller] = one.max >= two.max ? [one, two] : [two, one];
  if (larger.max === -Infinity) return weightedNothing();
  if (larger.max === Infinity) {
    if (smaller.max === Infinity && smaller.limbs[0] !== larger.limbs[0]) return weightedNaN();
    return larger;
  }
  const together = isNearBase(larger.base) ? isNearBase(smaller.base) : smaller.max === larger.max;
  if (!together) return larger;
  const base = larger.base > smaller.base ? larger.base : smaller.base;
  const limbs = added(moved(larger.limbs, larger.base, base), moved(smaller.limbs, smaller.base, base));
  return { max: larger.max, base, limbs };
}

function checkWeightedSum(scale, count, { max, base, limbs }) {
  checkMax(count, max);
  if (!Number.isFinite(max)) {
    demand(base === C.NO_BASE, "a base without a finite max");
    if (max !== Infinity) return demand(isZero(limbs), "limbs without a max");
    const [first, ...others] = limbs;
    return demand((first === 1n || first === -1n) && isZero(others), "limbs of +inf that are no sign");
  }
  const near = isNear(scale, max);
  const start = near ? termOf(scale, max).base : C.FAR_BASE;
  demand(base % LIMB === 0n, "a base that is no multiple of 50");
  demand(base - start >= C.LEAST_WEIGHT_BASE, "a base that is too small");
  demand(near ? base < C.FAR_BASE / 2n : base <= start + C.MOST_WEIGHT_BASE, "a base that is too large");
  checkLimbs(limbs, count);
}

// ---------------------------------------------------------------------------------------------------------- exact sums

const PLUS = 1;
const MINUS = 2;

function exactSumOf(factors) {
  const sum = { N: 0n, special: 0 };
  for (const [a, b] of factors) {
    if (typeof a === "bigint") {
      sum.N += (a * b) << -C.UNIT;
    } else if (Number.isFinite(a) && Number.isFinite(b)) {
      const [m, e] = integerAndExponent(a);
      const [n, f] = integerAndExponent(b);
      sum.N += shifted(m * n, BigInt(e + f) - C.UNIT); // what is shifted out of a factor 1 is all 0
    } else {
      const value = a * b;
      sum.special |= Number.isNaN(value) ? PLUS | MINUS : value > 0 ? PLUS : MINUS;
    }
  }
  return canonicalExactSum(sum);
}

/** A sum with an infinity or a NaN keeps no number. */
const canonicalExactSum = ({ N, special }) => ({ N: special ? 0n : N, special });

const mergedExactSums = (one, two) => canonicalExactSum({ N: one.N + two.N, special: one.special | two.special });

/** [low, words] of an integer: no more words than needed. */
function wordsOf(N) {
  const words = [];
  let low = 0;
  for (let rest = N; rest !== 0n; low += 1, rest >>= 64n) {
    if (BigInt.asUintN(64, rest) === 0n) continue;
    for (; BigInt.asIntN(64, rest) !== rest; rest >>= 64n) words.push(BigInt.asUintN(64, rest));
    words.push(BigInt.asUintN(64, rest));
    return [low, words];
  }
  return [0, words];
}

function readExactSum(view, at, count) {
  const [low, length] = [view.getUint16(at, true), view.getUint16(at + 2, true)];
  const special = view.getUint32(at + 4, true);
  demand(special <= (PLUS | MINUS), "a special that is not known");
  demand(BigInt(low + length) <= C.MOST_RECORD_WORDS, "too many words");
  if (special !== 0) demand(length === 0, "words of a special");
  if (length === 0) demand(low === 0, "a low without words");
  if (count === 0n) demand(length === 0 && special === 0, "an exact sum without rows");
  const word = (i) => view.getBigUint64(at + 8 + 8 * i, true);
  if (length > 0) demand(word(0) !== 0n, "a first word of 0");
  if (length > 1) {
    const sign = word(length - 2) >> 63n ? (1n << 64n) - 1n : 0n;
    demand(word(length - 1) !== sign, "a last word that is a mere sign");
  }
  let N = 0n;
  for (let i = length - 1; i >= 0; i -= 1) N = (N << 64n) | word(i);
  N = BigInt.asIntN(64 * length, N) << BigInt(64 * low);
  return [{ N, special }, at + 8 + 8 * length];
}

// ----------------------------------------------------------------------------------------------------- smallest values

const MOST_SMALLEST = 65535n;

/** The k smallest of values, ascending; null where one is NaN or +inf. */
function smallestOf(k, values) {
  if (values.some((x) => Number.isNaN(x) || x === Infinity)) return null;
  return values.map((x) => x + 0).sort((x, y) => (x < y ? -1 : x > y ? 1 : 0)).slice(0, Number(k));
}

const mergedSmallest = (k, one, two) => (one === null || two === null ? null : smallestOf(k, [...one, ...two]));

/** The values that a list, which is the k smallest of them or special, does not keep. */
const othersOf = (list, values) =>
  list === null ? values : [...values].sort((x, y) => (x < y ? -1 : x > y ? 1 : 0)).slice(list.length);

function readSmallest(view, at) {
  const [low, length] = [view.getUint16(at, true), view.getUint16(at + 2, true)];
  const special = view.getUint32(at + 4, true);
  demand(low === 0, "a low of a list");
  demand(special === 0 || (special === (PLUS | MINUS) && length === 0), "a special that no list has");
  const values = Array.from({ length }, (_, i) => view.getFloat64(at + 8 + 8 * i, true));
  return [special ? null : values, at + 8 + 8 * length];
}

function checkSmallest(k, count, [sum, ofOthers], list) {
  const special = Number.isNaN(sum.max) || sum.max === Infinity;
  demand(Number.isNaN(ofOthers.max) === Number.isNaN(sum.max), "one sum of NaN");
  demand((list === null) === special, "a special that does not fit the max");
  if (special) return;
  demand(BigInt(list.length) === (count < k ? count : k), "another number of values");
  demand(list.every((x) => x < Infinity && !Object.is(x, -0)), "a value that no list has");
  demand(list.every((x, i) => i === 0 || list[i - 1] <= x), "values that do not ascend");
  if (list.length === 0) return;
  const last = list[list.length - 1];
  if (BigInt(list.length) === count) demand(last === sum.max, "another largest value");
  else demand(last <= -ofOthers.max, "a value that is not kept, and smaller");
}

// ------------------------------------------------------------------------------------------------------------- records

function demand(holds, reason) {
  if (!holds) throw new Error(reason);
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc >>> 0;
});

/** CRC-32C of all bytes but those of the check itself. */
function checkOf(bytes) {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i += 1) {
    if (i < 4 || i >= 8) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ bytes[i]) & 0xff];
  }
  return (crc ^ 0xffffffff) >>> 0;
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** A record's state; an Error with the reason if the bytes are no record. */
export function parse(bytes) {
  try {
    return parsed(bytes);
  } catch (error) {
    if (error instanceof RangeError) throw new Error("truncated"); // that of a DataView: an offset beyond the end
    throw error;
  }
}

function parsed(bytes) {
  const view = viewOf(bytes);
  demand(view.getUint8(0) === VERSION, "a version that is not known");
  demand(view.getUint32(4, true) === checkOf(bytes), "a wrong check");
  const code = view.getUint8(1);
  const aggregation = AGGREGATIONS[code];
  demand(aggregation, "an aggregation that is not known");
  const { scale, end } = readScale(view, aggregation);
  const count = view.getBigInt64(8, true);
  demand(count >= 0n, "a negative count");
  const k = readK(view, aggregation);
  let at = k === undefined ? end : end + 8;
  const sums = aggregation.values.map(() => {
    const sum = aggregation.weights ? readWeightedSum(view, at) : readSum(view, at);
    at += aggregation.weights ? 64 : 72;
    return sum;
  });
  const twice = { effective_sample_size: 1, leave_one_out: 2 }[aggregation.name];
  if (twice) demand(Object.is(sums[twice].max, 2 * sums[twice - 1].max), "a sum that is not of twice the max");
  const [extremes, from] = aggregation.terms ? readExtremes(view, at, aggregation.terms, count) : [undefined, at];
  at = from;
  const exactSums = aggregation.factors.map(() => {
    if (aggregation.terms === 3) {
      const [low, words] = [view.getUint16(at, true), view.getUint16(at + 2, true)];
      demand(view.getUint32(at + 4, true) === 0, "a special of integers");
      demand(words === 0 || low >= 34, "a sum of integers with a fraction");
    }
    const [sum, next] = readExactSum(view, at, count);
    at = next;
    return sum;
  });
  let smallest;
  if (aggregation.smallest) {
    [smallest, at] = readSmallest(view, at);
    checkSmallest(k, count, sums, smallest);
  }
  sums.forEach((sum, i) => {
    const kept = i > 0 && aggregation.smallest && smallest !== null ? BigInt(smallest.length) : 0n;
    (aggregation.weights ? checkWeightedSum : checkSum)(scale, count - kept, sum);
  });
  demand(at === bytes.length, "more bytes than a record");
  return { code, scale, count, k, sums, extremes, exactSums, smallest };
}

const UNITS = [2 ** 106, 2 ** 53, 1];
const LIMIT = 10n ** 38n;
const TOP_DIGITS = [2 ** 21, 2 ** 53, 2 ** 53];

/** An integer as three floats: digits to the base 2^53, all of its sign. */
function termsOf(x) {
  const size = x < 0n ? -x : x;
  const digits = [size >> 106n, (size >> 53n) & (2n ** 53n - 1n), size & (2n ** 53n - 1n)];
  return digits.map((digit, i) => (x < 0n ? 0 - Number(digit) * UNITS[i] : Number(digit) * UNITS[i]));
}

/** [min, max] of floats or integers; undefined of none. */
function extremesOf(values) {
  if (values.length === 0) return undefined;
  if (values.some(Number.isNaN)) return [NaN, NaN];
  return [values.reduce((a, b) => (b < a ? b : a)), values.reduce((a, b) => (b > a ? b : a))];
}

function readExtremes(view, at, terms, count) {
  const values = [0, 1].map((i) => Array.from({ length: terms }, (_, j) => readMax(view, at + 8 * (terms * i + j))));
  const next = at + 16 * terms;
  for (const value of values) for (const x of value) demand(!Object.is(x, -0), "an extreme of -0.0");
  if (count === 0n) {
    const none = [Infinity, -Infinity].map((x) => [x, ...Array(terms - 1).fill(0)]);
    demand(values.every((value, i) => value.every((x, j) => x === none[i][j])), "extremes without rows");
    return [undefined, next];
  }
  if (terms === 1) {
    const [[min], [max]] = values;
    demand(min <= max || (Number.isNaN(min) && Number.isNaN(max)), "a min above the max");
    return [[min, max], next];
  }
  const integers = values.map((value) => {
    const digits = value.map((x, i) => x / UNITS[i]);
    demand(digits.every((x, i) => Number.isInteger(x) && Math.abs(x) < TOP_DIGITS[i]), "no digits of an integer");
    demand(digits.every((x) => x >= 0) || digits.every((x) => x <= 0), "digits of two signs");
    return value.reduce((sum, x) => sum + BigInt(x), 0n);
  });
  for (const x of integers) demand(x < LIMIT && x > -LIMIT, "an extreme of 39 digits");
  demand(integers[0] <= integers[1], "a min above the max");
  return [integers, next];
}

/** What a record keeps beside the aggregation's name: how many of the smallest values, or digits; often undefined. */
function readK(view, aggregation) {
  if (aggregation.terms === 3) {
    const digits = view.getBigInt64(16, true);
    demand(digits >= 0n && digits <= 38n, "a number of digits that is not allowed");
    return digits;
  }
  if (!aggregation.smallest) return undefined;
  const k = view.getBigInt64(16, true);
  demand(k >= 1n && k <= MOST_SMALLEST, "a number of values to keep that is not allowed");
  return k;
}

function readScale(view, aggregation) {
  const code = view.getUint16(2, true);
  const kind = SCALES[code];
  demand(kind, "a scale that is not known");
  demand(code === 0 || !aggregation.natural, "a scale that the aggregation does not have");
  if (!kind.allows) return { scale: scaleOf(code), end: 16 };
  const parameter = view.getFloat64(16, true);
  demand(kind.allows(parameter), "a parameter that the scale does not allow");
  return { scale: scaleOf(code, parameter), end: 24 };
}

function readMax(view, at) {
  const max = view.getFloat64(at, true);
  if (Number.isNaN(max)) demand(view.getBigUint64(at, true) === NAN_BITS, "a max of another NaN");
  return max;
}

function readSum(view, at) {
  const [ties, second] = [view.getBigInt64(at + 8, true), view.getFloat64(at + 16, true)];
  return { max: readMax(view, at), ties, second, limbs: readLimbs(view, at + 24) };
}

function readWeightedSum(view, at) {
  return { max: readMax(view, at), base: view.getBigInt64(at + 8, true), limbs: readLimbs(view, at + 16) };
}

function readLimbs(view, at) {
  return [0, 16, 32].map((j) => (view.getBigInt64(at + j + 8, true) << 64n) | view.getBigUint64(at + j, true));
}

/** The one record of a state. */
export function write({ code, scale, count, k, sums, extremes, exactSums, smallest }) {
  const { weights, terms = 0, smallest: keepsSmallest } = AGGREGATIONS[code];
  const words = exactSums.map((sum) => wordsOf(sum.N));
  const hasParameter = SCALES[scale.code].allows !== undefined;
  let size = (hasParameter ? 24 : 16) + sums.length * (weights ? 64 : 72);
  for (const [, some] of words) size += 8 + 8 * some.length;
  const list = smallest ?? [];
  if (k !== undefined) size += 8;
  if (keepsSmallest) size += 8 + 8 * list.length;
  size += 16 * terms;
  const bytes = new Uint8Array(size);
  const view = viewOf(bytes);
  view.setUint8(0, VERSION);
  view.setUint8(1, code);
  view.setUint16(2, scale.code, true);
  view.setBigInt64(8, count, true);
  let at = 16;
  const put = (method, value, length) => {
    view[method](at, value, true);
    at += length;
  };
  const putMax = (x) => (Number.isNaN(x) ? put("setBigUint64", NAN_BITS, 8) : put("setFloat64", x, 8));
  if (hasParameter) put("setFloat64", scale.parameter, 8);
  if (k !== undefined) put("setBigInt64", k, 8);
  for (const sum of sums) {
    putMax(sum.max);
    put("setBigInt64", weights ? sum.base : sum.ties, 8);
    if (!weights) put("setFloat64", sum.second, 8);
    for (const limb of sum.limbs) {
      put("setBigUint64", BigInt.asUintN(64, limb), 8);
      put("setBigInt64", limb >> 64n, 8);
    }
  }
  if (terms) {
    const [min, max] = extremes ?? [Infinity, -Infinity];
    for (const x of [min, max]) {
      const held = typeof x === "bigint" ? termsOf(x) : [x + 0, ...Array(terms - 1).fill(0)];
      for (const term of held) putMax(term);
    }
  }
  exactSums.forEach(({ special }, i) => {
    const [low, some] = words[i];
    put("setUint16", low, 2);
    put("setUint16", some.length, 2);
    put("setUint32", special, 4);
    for (const word of some) put("setBigUint64", word, 8);
  });
  if (keepsSmallest) {
    put("setUint16", 0, 2);
    put("setUint16", list.length, 2);
    put("setUint32", smallest === null ? PLUS | MINUS : 0, 4);
    for (const x of list) put("setFloat64", x, 8);
  }
  view.setUint32(4, checkOf(bytes), true);
  return bytes;
}

/** The state of rows; k is how many of the smallest values it keeps, where it keeps any. */
export function stateOf(code, scale, rows, k) {
  const { weights, values, factors, terms, smallest: keepsSmallest } = AGGREGATIONS[code];
  if (weights) demand(rows.every(([, w]) => Number.isFinite(w)), "a weight that is not finite");
  const smallest = !keepsSmallest ? undefined : smallestOf(k, rows.map(([x]) => x));
  const sums = values.map((value, i) => {
    const some = i > 0 && keepsSmallest ? othersOf(smallest, rows.map(([x]) => x)).map((x) => [x]) : rows;
    const scaled = some.map(([x]) => value(scale.negated ? -x : x) + 0); // −0.0 + 0 is 0.0
    return weights ? weightedSumOf(scale, scaled.map((x, i) => [x, rows[i][1]])) : sumOf(scale, scaled);
  });
  const extremes = terms ? extremesOf(rows.map(([x]) => x)) : undefined;
  const exactSums = factors.map((factor) => exactSumOf(rows.map((row) => factor(...row))));
  return { code, scale, count: BigInt(rows.length), k, sums, extremes, exactSums, smallest };
}

/** The state of the rows of both. */
export function merge(one, two) {
  const alike = one.code === two.code && one.scale === two.scale && one.k === two.k;
  demand(alike, "states of different aggregations or scales");
  const { code, scale, k } = one;
  const count = one.count + two.count;
  demand(count <= MOST_COUNT, "a count of 2^63 or more");
  const { weights, smallest: keepsSmallest } = AGGREGATIONS[code];
  const both = (sum, i) => (weights ? mergedWeightedSums(sum, two.sums[i]) : mergedSums(scale, sum, two.sums[i]));
  const exactSums = one.exactSums.map((sum, i) => mergedExactSums(sum, two.exactSums[i]));
  const sums = one.sums.map(both);
  const extremes = extremesOf([...(one.extremes ?? []), ...(two.extremes ?? [])]);
  if (!keepsSmallest) return { code, scale, count, k, sums, extremes, exactSums };
  const smallest = mergedSmallest(k, one.smallest, two.smallest);
  const others = othersOf(smallest, [...(one.smallest ?? []), ...(two.smallest ?? [])]);
  for (const i of [1, 2])
    sums[i] = mergedSums(scale, sums[i], sumOf(scale, others.map((x) => AGGREGATIONS[code].values[i](x) + 0)));
  return { code, scale, count, k, sums, exactSums, smallest };
}

/** The log-sum-exp of a state on the natural scale, as the nearest float. */
export function logSumExp({ scale, sums: [{ max, ties, second, limbs }] }) {
  demand(scale.natural, "only the natural scale has its result here");
  if (!Number.isFinite(max)) return max;
  let y = (ties - 1n) * ONE;
  if (second !== -Infinity) {
    const { A, B, k } = termOf(scale, max);
    const divisor = fixedOf(A, PLACES) + fixedOf(B, PLACES);
    const exponent = termOf(scale, second).base - 2n * LIMB - k + 2n * PLACES; // a quotient of units of 2^−1400
    // Where it is negative, and it may be as small as −2^61, the quotient is below what any float can show.
    if (exponent >= 0n) y += (valueOfLimbs(limbs) << exponent) / divisor;
  }
  return nearestFloat(fixedOf(max, PLACES) + fixedLog(ONE + y), PLACES);
}

// ---------------------------------------------------------------------------------------------------- the test vectors

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const bytesOf = (text) => new Uint8Array(Buffer.from(text, "hex"));

/** How many floats further b is than a. */
function unitsApart(a, b) {
  if (Object.is(a, b) || a === b) return 0n;
  const [i, j] = [a, b].map((x) => {
    scratch.setFloat64(0, x);
    const bits = scratch.getBigInt64(0);
    return bits < 0n ? -BigInt.asUintN(63, bits) : bits;
  });
  return i > j ? i - j : j - i;
}

/** A few orders of parts, the same in every run. */
function ordersOf(parts) {
  const orders = [parts, [...parts].reverse()];
  let seed = 12345;
  for (let i = 0; i < 4; i += 1) {
    const order = [...parts];
    for (let j = order.length - 1; j > 0; j -= 1) {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      const other = Math.floor((seed / 2147483648) * (j + 1));
      [order[j], order[other]] = [order[other], order[j]];
    }
    orders.push(order);
  }
  return orders;
}

/** Merged by halves rather than one by one. */
function mergedByHalves(states) {
  if (states.length === 1) return states[0];
  const half = Math.ceil(states.length / 2);
  return merge(mergedByHalves(states.slice(0, half)), mergedByHalves(states.slice(half)));
}

function expectBytes(what, expected, bytes) {
  const found = hex(bytes);
  demand(found === expected, `${what}\n  expected ${expected}\n  found    ${found}`);
}

/** What a record says of its kind: enough to make the record of rows. */
function kindOf(record) {
  const view = viewOf(bytesOf(record));
  const code = view.getUint8(1);
  return { code, scale: readScale(view, AGGREGATIONS[code]).scale, k: readK(view, AGGREGATIONS[code]) };
}

function checkRows(rows, record) {
  const { code, scale, k } = kindOf(record);
  const floats = rows.map((row) => row.map(AGGREGATIONS[code].terms === 3 ? BigInt : floatOf));
  expectBytes("the record of the rows", record, write(stateOf(code, scale, floats, k)));
  expectBytes("parsed and written again", record, write(parse(bytesOf(record))));
  const one = (row) => stateOf(code, scale, [row], k);
  expectBytes("row after row", record, write(floats.map(one).reduce(merge, stateOf(code, scale, [], k))));
}

function checkMerge(parts, merged) {
  const states = parts.map((part) => parse(bytesOf(part)));
  expectBytes("parsed and written again", merged, write(parse(bytesOf(merged))));
  for (const order of ordersOf(states)) {
    expectBytes("one by one", merged, write(order.reduce(merge)));
    expectBytes("by halves", merged, write(mergedByHalves(order)));
  }
}

function checkRefusal(record) {
  let state;
  try {
    state = parse(bytesOf(record));
  } catch {
    return;
  }
  throw new Error(`not refused\n  ${record}\n  ${hex(write(state))}`);
}

let failures = 0;

/** Runs a check of every entry; prints what fails and returns how many passed, as text. */
function passed(entries, name, check) {
  let good = 0;
  entries.forEach((entry, i) => {
    try {
      check(entry);
      good += 1;
    } catch (error) {
      failures += 1;
      console.log(`${name(entry, i)}: ${error.message}`);
    }
  });
  return good === entries.length ? `${good}` : `${good} of ${entries.length}`;
}

function main(directory, mergesFile) {
  loadConstants(directory);
  const vectors = (name) => JSON.parse(readFileSync(join(directory, name), "utf8"));
  const named = (entry) => entry.name;

  let equal = 0;
  const states = passed(vectors("states_v2.json"), named, ({ values, record, value }) => {
    checkRows(values.map((x) => [x]), record);
    const [expected, found] = [floatOf(value), logSumExp(parse(bytesOf(record)))];
    const apart = unitsApart(expected, found);
    demand(apart <= 1n, `value ${found}, not ${expected}, ${apart} ULP away`);
    if (apart === 0n) equal += 1;
  });
  console.log(`states_v2.json: ${states} states, ${equal} of their values equal, others within 1 ULP`);

  const aggregations = passed(vectors("aggregations_v2.json"), named, (entry) => checkRows(entry.rows, entry.record));
  console.log(`aggregations_v2.json: ${aggregations} records`);

  const merges = passed(vectors("merges_v2.json"), named, (entry) => checkMerge(entry.parts, entry.merged));
  console.log(`merges_v2.json: ${merges} merges of several records`);

  const refusals = passed(vectors("refusals_v2.json"), (entry) => entry.reason, (entry) => checkRefusal(entry.record));
  console.log(`refusals_v2.json: ${refusals} refusals`);

  if (mergesFile) {
    const lines = readFileSync(mergesFile, "utf8").split("\n").filter((line) => line.trim() !== "");
    const many = passed(lines, (_, i) => `line ${i + 1}`, (line) => {
      const [first, second, merged] = line.trim().split(/\s+/);
      const [one, two] = [parse(bytesOf(first)), parse(bytesOf(second))];
      parse(bytesOf(merged)); // it must be a record, not only the right bytes
      expectBytes("merged", merged, write(merge(one, two)));
      expectBytes("merged the other way", merged, write(merge(two, one)));
    });
    console.log(`${many} merges`);
  }
  return failures === 0 ? 0 : 1;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  if (process.argv.length < 3) {
    console.log("usage: node reader.mjs GOLDEN_DIR [MERGES_FILE]");
    process.exitCode = 2;
  } else {
    process.exitCode = main(process.argv[2], process.argv[3]);
  }
}
