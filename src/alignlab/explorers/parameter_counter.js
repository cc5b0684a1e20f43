// <alignlab-parameter_counter>: where a model's parameters are, and what it costs to keep, to run and to train it.
//
// Data: {models: [{name, stated, active, year, tokens, vocab, d, ff, layers, heads, kv, head, context, tied, bias, norm,
// latent: [kv rank, query rank, plain, rotary, value] or null, experts: [routed, active, width, shared, dense layers] or
// null, total, used}], start: name}. The counts are those of alignlab.counting, function by function.

const PARTS = [["embedding", "embedding"], ["attention", "attention"], ["mlp", "MLP"], ["router", "router"], ["experts", "routed experts"], ["shared_experts", "shared experts"], ["norms", "norms"], ["head", "output head"]];
const sum = (parts) => Object.values(parts).reduce((a, b) => a + b, 0);

/** Entries of one layer's attention matrices. */
function attentionWeights(m) {
  if (!m.latent) return 2 * m.d * m.heads * m.head + 2 * m.d * m.kv * m.head;
  const [kv, query, plain, rotary, value] = m.latent;
  const queries = m.heads * (plain + rotary);
  return (query ? m.d * query + query * queries : m.d * queries) + m.d * (kv + rotary) + kv * m.heads * (plain + value) + m.heads * value * m.d;
}

const denseLayers = (m) => (m.experts ? m.experts[4] : m.layers);

/** Parameters by part, over all layers. */
function parameters(m) {
  const [routed, , width, shared] = m.experts || [0, 0, 0, 0];
  const sparse = m.layers - denseLayers(m);
  const biases = m.bias ? (m.heads + 2 * m.kv) * m.head : 0;
  const inner = (m.latent ? m.latent[0] + m.latent[1] : 0) + (m.norm ? 2 * m.head : 0);
  return {
    embedding: m.vocab * m.d,
    attention: m.layers * (attentionWeights(m) + biases),
    mlp: denseLayers(m) * 3 * m.d * m.ff,
    router: sparse * m.d * routed,
    experts: sparse * routed * 3 * m.d * width,
    shared_experts: sparse * shared * 3 * m.d * width,
    norms: m.layers * (2 * m.d + inner) + m.d,
    head: m.tied ? 0 : m.vocab * m.d,
  };
}

/** The same without the routed experts that sleep while one token passes. */
function activeParameters(m) {
  const parts = parameters(m);
  return m.experts ? { ...parts, experts: (parts.experts / m.experts[0]) * m.experts[1] } : parts;
}

/** FLOPs of one forward pass over new tokens after `past` cached ones; the head is read at `logits` positions. */
function forwardFlops(m, tokens, past, logits) {
  const { mlp, router, experts, shared_experts } = activeParameters(m);
  const width = !m.latent ? 2 * m.head : past > 0 ? 2 * m.latent[0] + m.latent[3] : m.latent[2] + m.latent[3] + m.latent[4];
  return 2 * tokens * (mlp + router + experts + shared_experts + m.layers * attentionWeights(m)) + 2 * logits * m.vocab * m.d + 2 * m.layers * m.heads * width * tokens * (tokens + past);
}

/** Bytes of keys and values, or of latent vectors, in 16 bits. */
const cacheBytes = (m, tokens, batch) => m.layers * (m.latent ? m.latent[0] + m.latent[3] : 2 * m.kv * m.head) * tokens * batch * 2;

/** Key and value heads for so many query heads on one: the most that divide the heads evenly. */
function kvHeads(heads, shared) {
  let kv = Math.max(1, Math.floor(heads / shared));
  while (heads % kv) kv -= 1;
  return kv;
}

/** A model with its sizes changed: factors on layers, width and MLP, and query heads per key/value head. */
function changed(m, { layers, width, inner, shared }) {
  const heads = Math.max(1, Math.round(m.heads * width));
  const depth = Math.max(1, Math.round(m.layers * layers));
  const [routed, active, expert, common, dense] = m.experts || [];
  return {
    ...m, layers: depth, d: Math.round(m.d * width), heads, ff: Math.round(m.ff * inner), kv: m.latent ? heads : kvHeads(heads, shared),
    experts: m.experts && [routed, active, Math.round(expert * inner), common, Math.min(dense, depth)],
  };
}

/** A number in three figures with its unit: 6.74e9 -> ["6.74", "B"]. */
function scaled(x, units, step = 1000) {
  let k = 0;
  while (x >= 999.5 && k < units.length - 1) [x, k] = [x / step, k + 1];
  return [x >= 100 || (k === 0 && Number.isInteger(x)) ? x.toFixed(0) : x.toPrecision(3), units[k]];
}
const amount = (x) => scaled(x, ["", "K", "M", "B", "T"]).join("");
const bytes = (x) => scaled(x, ["bytes", "kB", "MB", "GB", "TB", "PB"]);
const work = (x) => scaled(x, ["FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs", "EFLOPs"]);

/** A figure whose unit changes with its value. */
function figure(label) {
  const place = h("div");
  const small = h("small");
  return {
    root: h("div", { class: "figure" }, h("span", null, label), place, small),
    show: (value, unit, note) => { place.replaceChildren(h("b", null, value), h("em", null, unit)); say(small, note); },
  };
}

function parameterCounter(host, root, data) {
  const FACTORS = [0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1.25, 1.5, 1.75, 2];
  const SHARES = [1, 2, 3, 4, 6, 7, 8, 12, 14, 16, 32, 64];
  let model = data.models.find((one) => one.name === data.start) || data.models[0];
  const setting = { layers: 1, width: 1, inner: 1, shared: 1, context: 4096, batch: 1, bits: 16 };
  const asPublished = () => Object.assign(setting, { layers: 1, width: 1, inner: 1, shared: model.heads / model.kv });
  asPublished();

  const id = `al-count-${++serial}`;
  const select = h("select", { id, onchange: () => { model = data.models[+select.value]; asPublished(); settle(); update(); } },
    data.models.map((one, k) => h("option", { value: k, selected: one === model }, `${one.name} (${one.year})`)));
  const bitsChoice = choice({ label: "Bits of a weight", options: [[32, "32-bit"], [16, "16-bit"], [8, "8-bit"], [4, "4-bit"]], value: 16, onchoose: (v) => { setting.bits = v; update(); } });
  const now = () => changed(model, setting);
  // A slider draws what it says before it reports its value; `knob` reports first.
  const knob = (key, values, options) => {
    const made = slider({ values, value: setting[key], oninput: () => {}, ...options, show: (v) => { setting[key] = v; return options.show(v); }, speak: (v) => { setting[key] = v; return (options.speak || options.show)(v); } });
    made.input.addEventListener("input", () => update());
    return made;
  };
  const sized = (key, label, text) => knob(key, FACTORS, { label, show: () => count(text(now())), speak: (v) => `${count(text(now()))}, ${v} times the published` });
  const knobs = {
    layers: sized("layers", "Layers L", (m) => m.layers),
    width: sized("width", "Width d", (m) => m.d),
    inner: sized("inner", "MLP width", (m) => (m.experts ? m.experts[2] : m.ff)),
    shared: knob("shared", SHARES, { label: "Queries per key head", show: String, speak: (v) => `${v} query heads share a key and value head` }),
    context: knob("context", range(9, 17, 1).map((k) => 2 ** k), { label: "Context T", show: count, speak: (v) => `${count(v)} tokens` }),
    batch: knob("batch", range(0, 8, 1).map((k) => 2 ** k), { label: "Rows at once B", show: count, speak: (v) => `${v} rows` }),
  };
  const reset = h("button", { type: "button", class: "action quiet", onclick: () => { asPublished(); settle(); update(); } }, "As published");

  const bars = ["All parameters, by part", "The parameters that one token passes, by part"].map((name) => {
    const pieces = PARTS.map(([key]) => s("path", { class: `part ${key}` }));
    return { pieces, root: s("svg", { class: "stack", role: "img", viewBox: "0 0 1000 30", preserveAspectRatio: "none", height: 30 }, s("title", null, name), pieces) };
  });
  const rows = PARTS.map(([key, name]) => ({ key, name, root: h("li") }));
  const tiles = {
    total: figure("Parameters N"), used: figure("Used for a token"), weights: figure("Weights"), cache: figure("KV cache"),
    step: figure("One new token"), read: figure("Reading the context"), train: figure("To train with Adam"), cards: figure("80 GB accelerators"),
  };
  const attempt = invitation(host, data, "Take Llama-2-7B and DeepSeek-V3 to 131,072 tokens of context: which of them needs the larger cache? Then let Llama's query heads share key heads.");

  root.append(h("section", { class: "explorer counter", "aria-label": "Explorer: parameters, memory and work of a model" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: id }, "Model"), select), bitsChoice.root),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "body" },
      h("figure", null,
        h("figcaption", null, "All parameters"), bars[0].root,
        h("figcaption", null, "Those that one token passes"), bars[1].root,
        h("ol", { class: "parts", "aria-label": "Parameters by part" }, rows.map((row) => row.root))),
      h("div", { class: "knobs" }, Object.values(knobs).map((one) => one.root), reset)),
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    h("footer", null, "Cache in 16 bits. Work counts matrix products, two FLOPs for a multiplication and its addition. Training: 16 bytes a parameter, without activations.")));

  /** Put every slider where the setting says. */
  function settle() {
    const wanted = { ...setting };
    for (const [key, one] of Object.entries(knobs)) {
      Object.assign(setting, wanted);
      one.set(wanted[key]);
    }
    Object.assign(setting, wanted);
  }

  function update() {
    const began = performance.now();
    const m = now();
    const [parts, active] = [parameters(m), activeParameters(m)];
    const [total, used] = [sum(parts), sum(active)];
    const same = setting.layers === 1 && setting.width === 1 && setting.inner === 1 && m.kv === model.kv;
    [parts, active].forEach((its, which) => {
      let at = 0;
      PARTS.forEach(([key], k) => {
        const wide = (1000 * its[key]) / total;
        bars[which].pieces[k].setAttribute("d", `M${at.toFixed(2)} 0h${wide.toFixed(2)}v30h${(-wide).toFixed(2)}z`);
        at += wide;
      });
    });
    for (const row of rows) {
      const fresh = h("li", { class: parts[row.key] ? null : "none" }, h("i", { class: `part ${row.key}` }), h("span", null, row.name), h("b", null, count(parts[row.key])), h("em", null, percent(parts[row.key] / total)));
      row.root.replaceWith(fresh); // new nodes have not moved
      row.root = fresh;
    }
    knobs.shared.root.classList.toggle("off", !!m.latent);
    say(knobs.shared.hint, m.latent ? "unused" : `${m.heads} on ${m.kv}`);
    const weights = (total * setting.bits) / 8;
    const cache = cacheBytes(m, setting.context, setting.batch);
    const step = setting.batch * forwardFlops(m, 1, setting.context - 1, 1);
    const read = setting.batch * forwardFlops(m, setting.context, 0, 1);
    const cards = Math.ceil((weights + cache) / 80e9);
    tiles.total.show(...scaled(total, ["", "K", "M", "B", "T"]), same ? `stated: ${model.stated}` : `published: ${amount(model.total)}`);
    tiles.used.show(...scaled(used, ["", "K", "M", "B", "T"]), model.active && same ? `stated: ${model.active}` : `${percent(used / total)} of all`);
    tiles.weights.show(...bytes(weights), `${setting.bits} bits each`);
    tiles.cache.show(...bytes(cache), `${bytes(cacheBytes(m, 1, 1)).join(" ")} a token`);
    tiles.step.show(...work(step), setting.batch > 1 ? `in each of ${setting.batch} rows` : "with the cache full");
    tiles.read.show(...work(read), `${count(setting.context * setting.batch)} tokens`);
    tiles.train.show(...bytes(16 * total), "16 bytes a parameter");
    tiles.cards.show(count(cards), "", "for weights and cache");
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, model: m, parts, total, used, weights, cache, step, read, cards } }));
  }

  settle();
  update();
}

define("alignlab-parameter_counter", parameterCounter, { parameters, activeParameters, forwardFlops, cacheBytes, kvHeads, changed });
