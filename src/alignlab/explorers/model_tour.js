// <alignlab-model_tour>: one forward pass of a real model, tensor by tensor, at the last token of a text.
//
// Data: {model, sizes: {d, h, h_kv, d_h, d_ff, L, V}, ids: [[...]], examples: [{title, tokens, layers, heads, values, rms, attention, streams,
// guesses}]}; tour.py packs an example. May be added: start: {example, layer, stage}.

/** Numbers from base64 of little-endian 16-bit floats. */
function halves(text) {
  const bytes = atob(text);
  return Array.from({ length: bytes.length / 2 }, (_, i) => {
    const bits = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
    return bits >> 15 ? -size : size;
  });
}

/** Attention weights from base64 of two codes a byte: a code c is the weight (c / 15)^2. */
function weightsOf(text) {
  return Array.from(atob(text), (one) => one.charCodeAt(0)).flatMap((byte) => [byte >> 4, byte & 15]).map((code) => (code / 15) ** 2);
}

const SHOWN = 8;
const STAGES = ["norm1", "q", "k", "v", "turned_q", "turned_k", "mixed", "attention", "middle", "norm2", "gate", "up", "inner", "mlp", "out"];

/** An example with its tensors by name: at(layer, name) gives {values, rms}; "in" is the stream before the layer. */
function opened(example) {
  const [values, sizes, streams, weights] = [halves(example.values), halves(example.rms), halves(example.streams), weightsOf(example.attention)];
  const T = example.tokens.length;
  const place = (k) => ({ values: values.slice(SHOWN * k, SHOWN * (k + 1)), rms: sizes[k] });
  const last = 1 + example.layers * STAGES.length;
  const at = (layer, name) => {
    if (name === "final") return place(last);
    if (name === "in") return layer <= 1 ? place(0) : at(layer - 1, "out");
    return place(1 + (layer - 1) * STAGES.length + STAGES.indexOf(name));
  };
  const stream = (layer, token) => streams[layer * T + token];
  const look = (layer, head) => weights.slice(((layer - 1) * example.heads + head) * T, ((layer - 1) * example.heads + head + 1) * T);
  return { ...example, T, at, stream, look };
}

/** What is done in a layer, station by station: name, what it does, shapes, its weights, and the tensors to show. */
function stationsOf({ d, h, h_kv, d_h, d_ff }) {
  const [q, k] = [h * d_h, h_kv * d_h];
  return [
    { name: "Norm", does: "Divides the stream by its root mean square and multiplies by learned scales. Only what attention reads is normed; the stream itself stays.", shape: `(T, ${d}) → (T, ${d})`, weight: "input_layernorm", size: `${d}`, rows: [["stream", "in"], ["normed", "norm1"]] },
    { name: "Queries, keys, values", does: `Three matrices. ${h} query heads ask, ${h_kv} key heads say what a position offers, ${h_kv} value heads hold what it hands over. Shown: the first head.`, shape: `(T, ${d}) → (T, ${q}), (T, ${k}), (T, ${k})`, weight: "self_attn.q_proj, k_proj, v_proj", size: `${d} × ${q}, ${d} × ${k}, ${d} × ${k}`, rows: [["query", "q"], ["key", "k"], ["value", "v"]] },
    { name: "Turn by position", does: `Rotary positions: element i and element i + ${d_h / 2} of a head turn together by an angle that grows with the position. No weights.`, shape: `(heads, T, ${d_h}) → (heads, T, ${d_h})`, weight: "none", size: "", rows: [["query", "q"], ["query, turned", "turned_q"], ["key, turned", "turned_k"]] },
    { name: "Attention weights", does: `Scores q · k / √${d_h} with every key up to here, then softmax: they sum to 1. Choose a head: its weights stand under the tokens above.`, shape: `(${h}, T, ${d_h}) · (${h_kv}, T, ${d_h}) → (${h}, T, T)`, weight: "none", size: "", rows: [["query, turned", "turned_q"], ["key, turned", "turned_k"]] },
    { name: "Mix the values", does: `Each head takes the mean of the values, weighted by its attention; the ${h} heads stand side by side. Shown: the first head.`, shape: `(${h}, T, T) · (${h_kv}, T, ${d_h}) → (T, ${q})`, weight: "none", size: "", rows: [["own value", "v"], ["mixed", "mixed"]] },
    { name: "Write", does: "One matrix turns what the heads have gathered into a change of the stream.", shape: `(T, ${q}) → (T, ${d})`, weight: "self_attn.o_proj", size: `${q} × ${d}`, rows: [["mixed", "mixed"], ["written", "attention"]] },
    { name: "Add", does: "The stream keeps all that it held. Check a column: the first two rows add up to the third.", shape: `(T, ${d}) + (T, ${d}) → (T, ${d})`, weight: "none", size: "", rows: [["stream", "in"], ["+ attention", "attention"], ["= stream", "middle"]] },
    { name: "Norm", does: "The same once more, with scales of its own, for what the MLP reads.", shape: `(T, ${d}) → (T, ${d})`, weight: "post_attention_layernorm", size: `${d}`, rows: [["stream", "middle"], ["normed", "norm2"]] },
    { name: "Gate and up", does: "SwiGLU: silu(gate) times up, with silu(u) = u / (1 + e^−u). Check a column. A gate far below 0 closes its unit.", shape: `(T, ${d}) → (T, ${d_ff})`, weight: "mlp.gate_proj, up_proj", size: `2 × ${d} × ${d_ff}`, rows: [["gate", "gate"], ["up", "up"], ["silu(gate) · up", "inner"]] },
    { name: "Down", does: `From ${d_ff} units back to the stream's ${d} numbers. The three matrices of the MLP hold ${Math.round((100 * 3 * d_ff) / (3 * d_ff + 2 * q + 2 * k))}% of the layer’s weights.`, shape: `(T, ${d_ff}) → (T, ${d})`, weight: "mlp.down_proj", size: `${d_ff} × ${d}`, rows: [["units", "inner"], ["written", "mlp"]] },
    { name: "Add", does: "The layer is done. The next one reads this.", shape: `(T, ${d}) + (T, ${d}) → (T, ${d})`, weight: "none", size: "", rows: [["stream", "middle"], ["+ MLP", "mlp"], ["= stream", "out"]] },
  ];
}

function modelTour(host, root, data) {
  const { sizes } = data;
  const { d, L, V } = sizes;
  const examples = data.examples.map(opened);
  const inside = stationsOf(sizes);
  const before = [{ name: "Look up", does: "The token id is the number of a row in the embedding matrix. That row is the stream, before any layer. No position is in it yet.", shape: `(T,) → (T, ${d})`, weight: "embed_tokens", size: `${count(V)} × ${d}`, rows: [["embedding", "in"]] }];
  const after = [
    { name: "Last norm", does: "The stream after the last layer, brought to size once more.", shape: `(T, ${d}) → (T, ${d})`, weight: "norm", size: `${d}`, rows: [["stream", "in"], ["normed", "final"]] },
    { name: "Logits", does: `One product with each row of the embedding matrix, which is the output head too: ${count(V)} logits, and by softmax as many probabilities. The bars below are the answer.`, shape: `(T, ${d}) → (T, ${count(V)})`, weight: "embed_tokens again (tied)", size: `${d} × ${count(V)}`, rows: [["normed", "final"]] },
  ];
  const stationsAt = (layer) => (layer === 0 ? before : layer > L ? after : inside);
  const start = data.start || {};
  let at = Math.min(examples.length - 1, start.example || 0);
  let layer = Math.min(L + 1, start.layer ?? 0);
  let stage = Math.min(stationsAt(layer).length - 1, start.stage || 0);
  let head = 0;

  const layerName = (l) => (l === 0 ? "embedding" : l > L ? "output" : `${l} of ${L}`);
  const go = (l, k) => {
    layer = Math.max(0, Math.min(L + 1, l));
    stage = Math.max(0, Math.min(stationsAt(layer).length - 1, k));
    layerSlider.set(layer);
    update();
  };
  const forward = () => (stage + 1 < stationsAt(layer).length ? go(layer, stage + 1) : layer <= L ? go(layer + 1, 0) : null);
  const backward = () => (stage > 0 ? go(layer, stage - 1) : layer > 0 ? go(layer - 1, stationsAt(layer - 1).length - 1) : null);
  const pick = choice({ label: "Text", options: examples.map((one, k) => [k, one.title]), value: at, onchoose: (k) => { at = k; update(); } });
  const layerSlider = slider({ label: "Layer", values: range(0, L + 1, 1), value: layer, show: layerName, oninput: (l) => go(l, stage) });
  const headSlider = slider({ label: "Head", values: range(1, sizes.h, 1), value: 1, show: String, speak: (k) => `head ${k}`, oninput: (k) => { head = k - 1; update(); } });
  const back = h("button", { type: "button", class: "chip", onclick: backward }, "Back");
  const next = h("button", { type: "button", class: "action", onclick: forward }, "Next step");
  const jump = h("button", { type: "button", class: "chip", onclick: () => go(layer + 1, stage) }, "Next layer");
  const end = h("button", { type: "button", class: "chip", onclick: () => go(L + 1, 1) }, "To the answer");

  const seen = h("p", { class: "seen-by" });
  // One strip a text, all in one place, so that the page keeps its height.
  const strips = examples.map(() => h("ol", { class: "words", "aria-label": "The tokens, and how much the last one looks at each" }));
  const buttons = inside.map((_, k) => h("button", { type: "button", class: "chip", onclick: () => go(layer, k) }));
  const list = h("ol", { class: "stations" }, buttons.map((button) => h("li", null, button)));
  const detail = h("div", { class: "detail", role: "status" });
  const guess = h("ol", { class: "guesses" });
  const guessTitle = h("span");
  const chart = axes({ height: 190, left: 42, attributes: { role: "img", class: "sizes" } });
  const title = s("title");
  const lines = ["first", "last"].map((name) => s("path", { class: `line ${name}` }));
  const cursor = s("line", { class: "head" });
  chart.svg.prepend(title);
  chart.marks.append(cursor, ...lines);
  const attempt = invitation(host, data, "Go to layer 1, last step, and add a column by hand. Then pull the layer slider: when does the answer appear in the bars?");

  root.append(h("section", { class: "explorer tour", "aria-label": "Explorer: the model, step by step" },
    h("header", null, pick.root, h("div", { class: "buttons" }, back, next, jump, end)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "pulls" }, layerSlider.root, headSlider.root),
    seen, h("div", { class: "strips" }, strips),
    h("div", { class: "walk" }, list, detail),
    h("div", { class: "charts" },
      h("figure", null, h("figcaption", null, guessTitle), guess),
      h("figure", null, h("figcaption", null, h("span", null, "Size of the stream (rms), layer by layer"), h("span", { class: "legend" }, h("span", null, h("i", { class: "key first" }), "first token"), h("span", null, h("i", { class: "key last" }), "last token"))), chart.svg)),
    h("footer", null, `${data.model}, real values of one forward pass. Each row shows the first ${SHOWN} numbers of a tensor at the last token, rounded to three figures, and the root mean square (rms) of all of them.`)));

  const number = (x) => fixed(x, Math.abs(x) >= 99.5 ? 0 : Math.abs(x) >= 9.95 ? 1 : Math.abs(x) >= 0.995 ? 2 : 3);

  /** One tensor: its name, its size, and its first numbers, coloured by sign and size. */
  function row(name, { values, rms }) {
    const most = Math.max(...values.map(Math.abs), 1e-9);
    return h("div", { class: "tensor" }, h("b", null, name), h("small", null, `rms ${number(rms)}`),
      h("ol", { "aria-label": `${name}: first numbers` }, values.map((v) => h("li", { class: v < 0 ? "minus" : "plus", style: `--much: ${Math.round((45 * Math.abs(v)) / most)}%` }, number(v)))));
  }

  function update() {
    const began = performance.now();
    const one = examples[at];
    const stations = stationsAt(layer);
    stage = Math.min(stage, stations.length - 1);
    const here = stations[stage];
    const shows = here.rows.map(([name, key]) => [name, one.at(layer, key)]);
    const looking = layer >= 1 && layer <= L ? one.look(layer, head) : null;
    say(seen, looking ? `Under each token: how much the last one looks at it, layer ${layer}, head ${head + 1}.` : layer ? "The next token is read off at the last position." : "The tokens of the prompt and their ids.");
    strips.forEach((strip, k) => strip.classList.toggle("away", k !== at));
    const fill = (strip, its, weights, ids) => strip.replaceChildren(...its.tokens.map((token, t) => h("li", { class: t === its.T - 1 ? "last" : null, style: weights ? `--much: ${Math.round(38 * Math.sqrt(weights[t]))}%` : null },
      h("code", null, tokenText(token)), h("small", null, weights ? `${Math.round(100 * weights[t])}%` : String(ids[t])))));
    fill(strips[at], one, looking, data.ids[at]);
    strips.forEach((strip, k) => { if (!strip.firstChild) fill(strip, examples[k], null, data.ids[k]); });
    buttons.forEach((button, k) => {
      const there = k < stations.length;
      button.classList.toggle("away", !there);
      button.disabled = !there;
      say(button, `${k + 1}. ${(there ? stations : inside)[k].name}`);
      button.setAttribute("aria-pressed", String(k === stage));
    });
    detail.replaceChildren(
      h("h4", null, `${layer === 0 || layer > L ? "" : `Layer ${layer}: `}${here.name}`), h("p", { class: "does" }, here.does),
      h("p", { class: "shapes" }, h("code", null, here.shape), h("span", null, here.weight === "none" ? "no weights" : `weights: ${here.weight}${here.size ? ` (${here.size})` : ""}`)),
      ...shows.map(([name, tensor]) => row(name, tensor)));
    // The stream that the lens reads: before the layer until its last step, after it from then on.
    const read = layer > L ? L : stage === stations.length - 1 ? layer : Math.max(0, layer - 1);
    say(guessTitle, layer > L ? "The next token" : read ? `If the model stopped after layer ${read}` : "If the model stopped at the embedding");
    guess.replaceChildren(...one.guesses[read].map(([token, p]) => h("li", null, h("code", null, tokenText(token)), h("span", { class: "track" }, h("i", { style: `width: ${(100 * p).toFixed(1)}%` })), h("b", null, percent(p)))));
    const logs = [0, one.T - 1].map((t) => Array.from({ length: L + 1 }, (_, l) => Math.log10(one.stream(l, t))));
    const [low, high] = extent(logs.flat(), 0.02);
    chart.frame({ x: [0, L], y: [Math.floor(low), Math.ceil(high)], xName: "after layer", yTicks: range(Math.floor(low), Math.ceil(high), 1), yText: (v) => String(+(10 ** v).toPrecision(1)) });
    logs.forEach((values, k) => lines[k].setAttribute("d", trace(values.map((v, l) => [chart.x(l), chart.y(v)]))));
    for (const [key, v] of Object.entries({ x1: chart.x(read), x2: chart.x(read), y1: chart.area.t, y2: chart.area.b })) cursor.setAttribute(key, v.toFixed(1));
    say(title, `After layer ${read} the stream's rms is ${number(one.stream(read, 0))} at the first token and ${number(one.stream(read, one.T - 1))} at the last.`);
    back.disabled = layer === 0;
    next.disabled = end.disabled = layer > L && stage === stations.length - 1;
    jump.disabled = layer > L;
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, example: at, layer, stage, head, station: here.name, tensors: Object.fromEntries(shows), weights: looking, guesses: one.guesses[read], stream: one.stream(read, one.T - 1) } }));
  }

  whenWide(chart.svg, update);
}

define("alignlab-model_tour", modelTour, { halves, weightsOf, opened });
