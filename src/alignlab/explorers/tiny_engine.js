// A Llama-family decoder in plain JavaScript: tokenizer, forward pass with KV cache, decoding strategies. No page.
//
// `packed` is what tiny_weights.py writes: config (names as in config.json), block, data (base64), tokenizer, chat, stops.

const MODELS = new WeakMap();

/** The model of packed weights, made once: {config, tokenizer, chat, stops, start, step, fork, done: {passes}}. */
function modelOf(packed) {
  if (!MODELS.has(packed)) MODELS.set(packed, { ...decoder(packed), ...packed, tokenizer: tokenizerOf(packed.tokenizer) });
  return MODELS.get(packed);
}

/** base64 -> bytes. */
function bytesOf(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** out[r] = W[r] · x, r in [0, rows), four rows at once so that x is read once for them. Sizes are multiples of 4. */
function times(W, x, out, rows) {
  const columns = x.length;
  for (let r = 0; r < rows; r += 4) {
    const first = r * columns;
    const [second, third, fourth] = [first + columns, first + 2 * columns, first + 3 * columns];
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    for (let k = 0; k < columns; k += 2) {
      const v = x[k];
      const w = x[k + 1];
      a += W[first + k] * v + W[first + k + 1] * w;
      b += W[second + k] * v + W[second + k + 1] * w;
      c += W[third + k] * v + W[third + k + 1] * w;
      d += W[fourth + k] * v + W[fourth + k + 1] * w;
    }
    out[r] = a;
    out[r + 1] = b;
    out[r + 2] = c;
    out[r + 3] = d;
  }
}

/**
 * The forward pass, a token at a time. A state is {length, ids, keys, values}: what the KV cache holds; to go back, lower
 * its length. step(state, id) reads one token and gives the logits of the next, (vocabulary); wanted = false spares them.
 */
function decoder({ config: c, block, data }) {
  const [hidden, inner, size] = [c.hidden_size, c.intermediate_size, c.head_dim];
  const [queries, shared] = [c.num_attention_heads * size, c.num_key_value_heads * size];
  const shapes = [[c.vocab_size, hidden]];
  for (let l = 0; l < c.num_hidden_layers; l++)
    shapes.push([queries, hidden], [shared, hidden], [shared, hidden], [hidden, queries], [inner, hidden], [inner, hidden], [hidden, inner]);
  // First all float32: the scales of each matrix, then the gains; then all int8.
  const bytes = bytesOf(data);
  const across = (columns) => Math.ceil(columns / (block || columns));
  const scales = shapes.reduce((sum, [rows, columns]) => sum + rows * across(columns), 0);
  const floats = new Float32Array(bytes.buffer, 0, scales + (2 * c.num_hidden_layers + 1) * hidden);
  const whole = new Int8Array(bytes.buffer, floats.byteLength);
  let [atScale, atWeight] = [0, 0];
  const matrices = shapes.map(([rows, columns]) => {
    const W = new Float32Array(rows * columns);
    const wide = block || columns;
    for (let r = 0; r < rows; r++)
      for (let from = 0; from < columns; from += wide) {
        const scale = floats[atScale++];
        for (let k = from; k < Math.min(from + wide, columns); k++) W[r * columns + k] = whole[atWeight++] * scale;
      }
    return W;
  });
  const gains = Array.from({ length: 2 * c.num_hidden_layers + 1 }, (_, i) => floats.slice(scales + i * hidden, scales + (i + 1) * hidden));
  const layers = Array.from({ length: c.num_hidden_layers }, (_, l) => matrices.slice(1 + 7 * l, 8 + 7 * l));
  const embedding = matrices[0];
  const half = size / 2;
  const capacity = c.max_position_embeddings;
  const [cosine, sine] = [Math.cos, Math.sin].map((f) =>
    Float64Array.from({ length: capacity * half }, (_, i) => f(Math.floor(i / half) / c.rope_theta ** ((i % half) / half))));

  const wide = (n) => new Float64Array(n);
  const [x, y, q, k, v, mixed, gate, up] = [hidden, hidden, queries, shared, shared, queries, inner, inner].map(wide);
  const weight = wide(capacity);
  const done = { passes: 0 };

  /** y = x / rms(x) * gain */
  function normalize(gain) {
    let squares = 0;
    for (let i = 0; i < hidden; i++) squares += x[i] * x[i];
    const scale = 1 / Math.sqrt(squares / hidden + c.rms_norm_eps);
    for (let i = 0; i < hidden; i++) y[i] = x[i] * scale * gain[i];
  }

  /** Turn each pair (i, i + half) of each head by its angle at this position. */
  function rotate(heads, position) {
    for (let from = 0; from < heads.length; from += size)
      for (let i = 0; i < half; i++) {
        const [cos, sin] = [cosine[position * half + i], sine[position * half + i]];
        const [left, right] = [heads[from + i], heads[from + half + i]];
        heads[from + i] = left * cos - right * sin;
        heads[from + half + i] = right * cos + left * sin;
      }
  }

  /** Each query head over the keys and values so far; several query heads share a head of these. */
  function attend(keys, values, length) {
    const group = c.num_attention_heads / c.num_key_value_heads;
    mixed.fill(0);
    for (let head = 0; head < c.num_attention_heads; head++) {
      const from = head * size;
      const offset = Math.floor(head / group) * size;
      let top = -Infinity;
      for (let t = 0; t < length; t++) {
        let score = 0;
        for (let i = 0; i < size; i++) score += q[from + i] * keys[t * shared + offset + i];
        weight[t] = score / Math.sqrt(size);
        top = Math.max(top, weight[t]);
      }
      let sum = 0;
      for (let t = 0; t < length; t++) sum += weight[t] = Math.exp(weight[t] - top);
      for (let t = 0; t < length; t++)
        for (let i = 0; i < size; i++) mixed[from + i] += (weight[t] / sum) * values[t * shared + offset + i];
    }
  }

  const start = () => ({ length: 0, ids: [], keys: layers.map(() => new Float32Array(capacity * shared)), values: layers.map(() => new Float32Array(capacity * shared)) });

  function step(state, id, wanted = true) {
    const position = state.length;
    if (position >= capacity) throw new Error(`the context of ${capacity} tokens is full`);
    for (let i = 0; i < hidden; i++) x[i] = embedding[id * hidden + i];
    layers.forEach(([Q, K, V, O, G, U, D], l) => {
      normalize(gains[2 * l]);
      times(Q, y, q, queries);
      times(K, y, k, shared);
      times(V, y, v, shared);
      rotate(q, position);
      rotate(k, position);
      state.keys[l].set(k, position * shared);
      state.values[l].set(v, position * shared);
      attend(state.keys[l], state.values[l], position + 1);
      times(O, mixed, y, hidden);
      for (let i = 0; i < hidden; i++) x[i] += y[i];
      normalize(gains[2 * l + 1]);
      times(G, y, gate, inner);
      times(U, y, up, inner);
      for (let i = 0; i < inner; i++) gate[i] *= up[i] / (1 + Math.exp(-gate[i]));
      times(D, gate, y, hidden);
      for (let i = 0; i < hidden; i++) x[i] += y[i];
    });
    state.ids[state.length++] = id;
    done.passes += 1;
    if (!wanted) return null;
    normalize(gains[2 * c.num_hidden_layers]);
    const logits = wide(c.vocab_size);
    times(embedding, y, logits, c.vocab_size);
    return logits;
  }

  /** A copy that goes its own way. */
  function fork(state) {
    const copy = start();
    copy.length = state.length;
    copy.ids = state.ids.slice(0, state.length);
    for (const kind of ["keys", "values"])
      state[kind].forEach((one, l) => copy[kind][l].set(one.subarray(0, state.length * shared)));
    return copy;
  }
  return { start, step, fork, done };
}

/**
 * Byte-level BPE as in tokenizer.json: {encode(text) -> ids, decode(ids) -> text}. `tokens` are written in the alphabet of
 * 256 printable characters that stand for bytes; `merges` in the order of their rank; `special` tokens are found first.
 */
function tokenizerOf({ tokens, merges, special, pattern }) {
  const alphabet = [];
  for (let byte = 0, spare = 256; byte < 256; byte++)
    alphabet.push(String.fromCharCode((byte > 32 && byte < 127) || (byte > 160 && byte !== 173) ? byte : spare++));
  const byteOf = new Map(alphabet.map((letter, byte) => [letter, byte]));
  const idOf = new Map(tokens.map((token, id) => [token, id]));
  const rank = new Map(merges.map((merge, at) => [merge, at]));
  const isSpecial = new Set(special);
  const escaped = special.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const marks = new RegExp(`(${escaped.join("|")})`, "u");
  const pieces = new RegExp(pattern, "gu");
  const utf8 = new TextEncoder();

  function merged(letters) {
    for (;;) {
      let [best, at] = [Infinity, -1];
      for (let i = 0; i + 1 < letters.length; i++) {
        const found = rank.get(`${letters[i]} ${letters[i + 1]}`);
        if (found < best) [best, at] = [found, i];
      }
      if (at < 0) return letters;
      letters.splice(at, 2, letters[at] + letters[at + 1]);
    }
  }

  function encode(text) {
    const ids = [];
    for (const part of text.split(marks)) {
      if (isSpecial.has(part)) ids.push(idOf.get(part));
      else for (const [piece] of part.matchAll(pieces))
        ids.push(...merged(Array.from(utf8.encode(piece), (byte) => alphabet[byte])).map((token) => idOf.get(token)));
    }
    return ids;
  }

  function decode(ids) {
    const bytes = ids.flatMap((id) => (isSpecial.has(tokens[id]) ? Array.from(utf8.encode(tokens[id])) : Array.from(tokens[id], (letter) => byteOf.get(letter))));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
  }
  return { encode, decode };
}

// ---- strategies, in the library's order and to its numbers (decoding.Sampling)

const PLAIN = { penalty: 1, temperature: 1, topK: Infinity, topP: 1, minP: 0, typical: 1, beams: 1 };

/** exp(v) / sum exp(v): (V,) -> (V,). */
function softmax(values) {
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const p = Float64Array.from(values, (v) => Math.exp(v - top));
  const sum = p.reduce((a, b) => a + b, 0);
  return p.map((each) => each / sum);
}

/** Entropy in nats; 0 log 0 is 0. */
const entropyOf = (p) => p.reduce((sum, each) => (each > 0 ? sum - each * Math.log(each) : sum), 0);

/** Make tokens that occurred less likely: positive values are divided by the penalty, negative ones multiplied. */
function penalized(values, seen, penalty) {
  const out = Float64Array.from(values);
  if (penalty !== 1) for (const id of new Set(seen)) out[id] *= out[id] < 0 ? penalty : 1 / penalty;
  return out;
}

/** The logits to sample from, -Infinity where cut; `cut` is filled with the name of the rule that cut each token. */
function processed(logits, seen, settings, cut = []) {
  const { penalty, temperature, topK, topP, minP, typical } = { ...PLAIN, ...settings };
  const values = penalized(logits, seen, penalty);
  if (temperature === 0) return values;
  for (let i = 0; i < values.length; i++) values[i] /= temperature;
  const drop = (i, rule) => {
    if (values[i] === -Infinity) return;
    values[i] = -Infinity;
    cut[i] = rule;
  };
  /** Keep in ascending order of `key` until the probability reaches p; the token that crosses p stays. */
  const keepUntil = (key, p, probability, rule) => {
    let sum = 0;
    for (const i of Array.from(values.keys()).sort((a, b) => key(a) - key(b) || a - b)) {
      if (sum >= p) drop(i, rule);
      sum += probability[i];
    }
  };
  if (topK < values.length) {
    const least = Float64Array.from(values).sort()[values.length - topK];
    values.forEach((v, i) => v < least && drop(i, "top-k"));
  }
  if (topP < 1) {
    const before = values.slice(); // drops change the values that the order is taken from
    keepUntil((i) => (before[i] === -Infinity ? 1e300 : -before[i]), topP, softmax(values), "top-p");
  }
  if (minP > 0) {
    const p = softmax(values);
    const most = p.reduce((a, b) => Math.max(a, b), 0);
    p.forEach((each, i) => each < minP * most && drop(i, "min-p"));
  }
  if (typical < 1) {
    const p = softmax(values);
    const entropy = entropyOf(p);
    keepUntil((i) => (p[i] > 0 ? Math.abs(-Math.log(p[i]) - entropy) : 1e300), typical, p, "typical");
  }
  return values;
}

const likeliest = (values) => values.reduce((best, v, i) => (v > values[best] ? i : best), 0);

/** The id in which u, uniform in [0, 1), falls. */
function drawn(p, u) {
  let sum = 0;
  let last = 0;
  for (let i = 0; i < p.length; i++) {
    if (p[i] === 0) continue;
    last = i;
    sum += p[i];
    if (u < sum) return i;
  }
  return last;
}

/** Read what the cache does not hold yet of these ids, a token a turn; gives the logits after the last. */
function* read(model, state, ids) {
  let same = 0;
  while (same < Math.min(state.length, ids.length - 1) && state.ids[same] === ids[same]) same++;
  state.length = same;
  while (state.length < ids.length - 1) {
    model.step(state, ids[state.length], false);
    yield;
  }
  return model.step(state, ids[ids.length - 1]);
}

/**
 * Continue a prompt by at most `most` tokens, a forward pass a turn, until a stop token. `run` holds what there is after each
 * turn: path [{id, logits, given}], the stop token included, and ended. The first `given` ids are not chosen but told.
 * chance(t) in [0, 1) decides the token at place t, so that the same seed gives the same draw at the same place. The settings
 * may change on the way.
 */
function* sampled(model, state, run, plan) {
  const { prompt, given = [], most, chance } = plan;
  run.path = [];
  let logits = yield* read(model, state, prompt);
  while (run.path.length < most) {
    const place = run.path.length;
    const told = place < given.length;
    let id = given[place];
    if (!told) {
      const values = processed(logits, [...prompt, ...run.path.map((one) => one.id)], plan.settings);
      id = plan.settings.temperature === 0 ? likeliest(values) : drawn(softmax(values), chance(place));
    }
    run.path.push({ id, logits, given: told });
    run.ended = model.stops.includes(id);
    if (run.ended) return;
    if (run.path.length < most) logits = model.step(state, id);
    yield;
  }
}

/**
 * Beam search as in transformers' generate: score = log-probability / length^lengthPenalty, twice as many candidates (and
 * one more set a further stop token) as beams, stopped where no running beam can pass the worst that has finished.
 * `run.lines` are the running and finished beams [{path, score, finished}], the best first; `run.path` is the best's.
 */
function* beamed(model, state, run, { prompt, given = [], settings, most, lengthPenalty = 1 }) {
  const width = settings.beams; // beams are chosen once
  const before = [];
  let logits = yield* read(model, state, prompt);
  for (const id of given) {
    before.push({ id, logits, given: true });
    run.path = before.slice();
    run.ended = model.stops.includes(id);
    if (run.ended || before.length >= most) return;
    logits = model.step(state, id);
    yield;
  }
  let running = [{ path: before, sum: 0, state, logits }];
  let finished = [];
  for (let length = 1; ; length++) {
    const value = (sum) => sum / length ** lengthPenalty;
    const candidates = running.flatMap((beam) => {
      const logp = penalized(Float64Array.from(softmax(beam.logits), Math.log), [...prompt, ...beam.path.map((one) => one.id)], settings.penalty ?? 1);
      return Array.from(logp, (each, id) => ({ beam, id, sum: beam.sum + each }));
    });
    candidates.sort((a, b) => b.sum - a.sum);
    const last = before.length + length >= most;
    const kept = candidates.slice(0, (1 + model.stops.length) * width).map((one, rank) => ({
      ...one, rank, ended: model.stops.includes(one.id), path: [...one.beam.path, { id: one.id, logits: one.beam.logits }] }));
    const done = kept.filter((one) => one.rank < width && (one.ended || last));
    finished = [...finished, ...done.map(({ path, sum, ended }) => ({ path, sum, ended, score: value(sum), finished: true }))]
      .sort((a, b) => b.score - a.score).slice(0, width);
    const next = last ? [] : kept.filter((one) => !one.ended).slice(0, width);
    const lines = [...finished, ...next.map(({ path, sum }) => ({ path, sum, score: value(sum), finished: false }))].sort((a, b) => b.score - a.score);
    Object.assign(run, { lines, path: lines[0].path });
    const open = finished.length < width || next.some((one) => value(one.sum) > finished[width - 1].score);
    if (!next.length || !open) {
      Object.assign(run, { lines: finished, path: finished[0].path, ended: finished[0].ended });
      return;
    }
    yield;
    const taken = new Set();
    const states = next.map(({ beam }) => (taken.has(beam) ? model.fork(beam.state) : (taken.add(beam), beam.state)));
    running = [];
    for (const [k, { path, sum, id }] of next.entries()) {
      running.push({ path, sum, state: states[k], logits: model.step(states[k], id) });
      yield;
    }
  }
}
