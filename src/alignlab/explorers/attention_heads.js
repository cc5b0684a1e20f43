// <alignlab-attention_heads>: every head of a model on a few texts: a map of layers and heads, one head's weights, one position's reading.
//
// Data: {model, examples: [{title, tokens, layers, heads, packed}]}, made by `heads.attention_example`. packed: base64, two codes a byte,
// a code c of 0..15 standing for a weight (c / 15)², in the order layer, head, row, column up to the row; rows are made to sum to 1.
// May be added: next: for each example [[token, probability]], notable: [{name, example, layer, head, position}], start: {example, layer,
// head, position, kind}.

/** The weights of an example, rows summing to 1: a flat array, ((layer * heads + head) * T + row) * T + column. */
function unpackWeights({ tokens, layers, heads, packed }) {
  const T = tokens.length;
  const bytes = atob(packed);
  const weights = new Float64Array(layers * heads * T * T);
  let k = 0;
  for (let at = 0; at < layers * heads; at++) {
    for (let t = 0; t < T; t++) {
      const row = (at * T + t) * T;
      let sum = 0;
      for (let s = 0; s <= t; s++, k++) {
        const byte = bytes.charCodeAt(k >> 1);
        const code = k & 1 ? byte & 15 : byte >> 4;
        weights[row + s] = (code / 15) ** 2;
        sum += weights[row + s];
      }
      for (let s = 0; s <= t; s++) weights[row + s] /= sum || 1;
    }
  }
  return weights;
}

const KINDS = {
  first: { name: "First token", tell: "goes to the first token", short: "on the first token" },
  previous: { name: "Token before", tell: "goes to the token before", short: "on the token before" },
  itself: { name: "Itself", tell: "stays on the token itself", short: "on itself" },
  same: { name: "Same token", tell: "goes to earlier copies of the same token", short: "on earlier copies" },
};

/**
 * What a head does, 0 to 1, for each head (layer * heads + head): the mean share of attention that goes to the first token, to the one
 * before, to the token itself, to earlier copies of it. Means are over rows from the third on (for `same`: those with a copy).
 */
function headScores({ tokens, layers, heads }, weights) {
  const T = tokens.length;
  const scores = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, new Float64Array(layers * heads)]));
  const copies = tokens.map((token, t) => tokens.slice(0, t).flatMap((other, s) => (other === token ? [s] : [])));
  const repeated = copies.filter((found, t) => t > 1 && found.length).length;
  for (let at = 0; at < layers * heads; at++) {
    for (let t = 2; t < T; t++) {
      const row = (at * T + t) * T;
      scores.first[at] += weights[row] / (T - 2);
      scores.previous[at] += weights[row + t - 1] / (T - 2);
      scores.itself[at] += weights[row + t] / (T - 2);
      for (const s of copies[t]) scores.same[at] += weights[row + s] / repeated;
    }
  }
  return scores;
}

/** How many tokens a row reads: e to its entropy, between 1 and its length. */
function tokensRead(row) {
  let entropy = 0;
  for (const p of row) if (p > 0) entropy -= p * Math.log(p);
  return Math.exp(entropy);
}

function attentionHeads(host, root, data) {
  const start = data.start || {};
  const known = data.examples.map((example) => {
    const weights = unpackWeights(example);
    return { ...example, weights, scores: headScores(example, weights) };
  });
  let number = Math.min(known.length - 1, start.example ?? 0);
  let example = known[number];
  let { layer = 0, head = 0, kind = "previous" } = start;
  let position = start.position ?? example.tokens.length - 1;
  const layers = Math.max(...known.map((one) => one.layers));
  const heads = Math.max(...known.map((one) => one.heads));
  const longest = Math.max(...known.map((one) => one.tokens.length));
  const upTo = (n) => Array.from({ length: n }, (_, k) => k);

  const examples = choice({ label: "Text", options: known.map((one, k) => [k, one.title]), value: number, onchoose: (k) => go({ example: k }) });
  const kinds = choice({ label: "Colour of the map", options: Object.entries(KINDS).map(([key, { name }]) => [key, name]), value: kind, onchoose: (key) => { kind = key; update(); } });
  const layerSlider = slider({ label: "Layer", values: upTo(layers), value: layer, show: (v) => String(v + 1), speak: (v) => `layer ${v + 1} of ${layers}`, oninput: (v) => { layer = v; update(); } });
  const headSlider = slider({ label: "Head", values: upTo(heads), value: head, show: (v) => String(v + 1), speak: (v) => `head ${v + 1} of ${heads}`, oninput: (v) => { head = v; update(); } });
  const rowSlider = slider({ label: "Reading token", values: upTo(longest), value: position, show: (v) => String(v + 1), speak: (v) => `token ${v + 1}`, oninput: (v) => { position = Math.min(v, example.tokens.length - 1); update(); } });

  const MAP = 336;
  const map = s("svg", { height: MAP, class: "map", role: "img" });
  const mapTitle = s("title");
  const cells = upTo(layers * heads).map(() => s("rect", { class: "cell" }));
  const ring = s("path", { class: "ring" });
  const marks = upTo(layers).filter((k) => k % 5 === 4 || k === 0).map((k) => [k, s("text", { "text-anchor": "end" }, String(k + 1))]);
  map.append(mapTitle, ...cells, ...marks.map(([, text]) => text), ring);
  const square = s("svg", { height: MAP, class: "square", role: "img" });
  const squareTitle = s("title");
  const inside = s("g");
  const band = s("path", { class: "ring" });
  square.append(squareTitle, inside, band);

  const strip = h("div", { class: "strip", role: "group", "aria-label": "Tokens: press one to see what it reads" });
  let pieces = [];
  const tiles = { most: tile("Reads most", ""), first: tile("On the first token", ""), before: tile("On the token before", ""), wide: tile("Spread over", "tokens") };
  const verdict = h("p", { class: "verdict", role: "status" });
  const found = h("div", { class: "buttons" });
  const attempt = invitation(host, data, "Colour the map by “Token before” and press a dark cell: that head copies the neighbour. Then colour it by “First token”: most heads rest there.");

  root.append(h("section", { class: "explorer aheads", "aria-label": "Explorer: attention heads" },
    h("header", null, examples.root, h("div", { class: "kinds" }, h("span", null, "Colour by"), kinds.root)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "two" },
      h("figure", null, h("figcaption", null, "All heads: layers down, heads across"), map),
      h("figure", null, h("figcaption", null, "One head: each row is a token that reads, each column a token that is read"), square)),
    h("div", { class: "knobs" }, layerSlider.root, headSlider.root, rowSlider.root),
    h("p", { class: "caption" }, "The outlined token reads; the darker a token, the more of its attention it gets."),
    strip,
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    verdict, found,
    h("footer", null, `${data.model || "The model"}’s own weights, after the softmax, at 4 bits a weight. A position reads itself and what came before it, never what comes after.`)));

  /** Show another example, head or row. */
  function go({ example: k = number, layer: l = layer, head: m = head, position: t }) {
    const moved = k !== number;
    number = k;
    example = known[k];
    [layer, head] = [Math.min(l, example.layers - 1), Math.min(m, example.heads - 1)];
    if (t !== undefined) position = t;
    else if (moved) position = example.tokens.length - 1;
    position = Math.min(position, example.tokens.length - 1);
    examples.set(number);
    layerSlider.set(layer);
    headSlider.set(head);
    rowSlider.set(position);
    update();
  }

  const place = (node, box) => { for (const [name, value] of Object.entries(box)) node.setAttribute(name, value.toFixed(2)); };
  const frame = (path, x, y, w, high) => path.setAttribute("d", `M${x.toFixed(1)} ${y.toFixed(1)}h${w.toFixed(1)}v${high.toFixed(1)}h${(-w).toFixed(1)}Z`);
  let size = null;
  /** Where the map's cells and the square's lie, for the widths there are. */
  function measure() {
    const wide = map.getBoundingClientRect().width || 300;
    const other = square.getBoundingClientRect().width || 300;
    map.setAttribute("viewBox", `0 0 ${wide} ${MAP}`);
    square.setAttribute("viewBox", `0 0 ${other} ${MAP}`);
    const left = 26;
    size = { left, w: Math.min(46, (wide - left - 4) / heads), h: (MAP - 4) / layers, other };
    cells.forEach((cell, k) => place(cell, { x: left + (k % heads) * size.w, y: 2 + Math.floor(k / heads) * size.h, width: size.w - 1.5, height: size.h - 1.5 }));
    marks.forEach(([k, text]) => place(text, { x: left - 6, y: 2 + (k + 0.5) * size.h + 4 }));
  }
  const pick = (event, svg, inner) => {
    const box = svg.getBoundingClientRect();
    inner(event.clientX - box.left, ((event.clientY - box.top) * MAP) / box.height);
  };
  map.addEventListener("click", (event) => pick(event, map, (x, y) => {
    const [m, l] = [Math.floor((x - size.left) / size.w), Math.floor((y - 2) / size.h)];
    if (m >= 0 && m < heads && l >= 0 && l < layers) go({ layer: l, head: m });
  }));
  square.addEventListener("click", (event) => pick(event, square, (x, y) => go({ position: Math.max(0, Math.min(example.tokens.length - 1, Math.floor(y / (MAP / example.tokens.length)))) })));

  const label = (token) => token.replace(/\n/g, "↵").replace(/ /g, "·");
  let shown = "";
  let grid = [];
  /** The square's cells and the strip's tokens, anew for each example or width. */
  function lay() {
    const key = `${number} ${size.other}`;
    if (key === shown) return;
    shown = key;
    const T = example.tokens.length;
    const names = Math.min(104, size.other * 0.3);
    const [w, high] = [(size.other - names - 4) / T, MAP / T];
    size.names = names;
    size.high = high;
    grid = [];
    const most = Math.max(4, Math.floor(names / 7.6));
    const texts = example.tokens.map((token, t) => {
      const text = label(token);
      return s("text", { x: names - 7, y: (t + 0.5) * high + 4, "text-anchor": "end" }, text.length > most ? `${text.slice(0, most - 1)}…` : text);
    });
    for (let t = 0; t < T; t++) {
      for (let c = 0; c <= t; c++) grid.push(s("rect", { class: "weight", x: names + c * w, y: t * high, width: Math.max(1, w - 1), height: high - 1 }));
    }
    inside.replaceChildren(...texts, ...grid);
    pieces = example.tokens.map((token, t) => h("button", { type: "button", class: "token", onclick: () => go({ position: t }) }, tokenText(token)));
    strip.replaceChildren(...pieces);
    const strongest = Object.entries(KINDS).map(([name, { name: title }]) => {
      const all = example.scores[name];
      const at = all.indexOf(Math.max(...all));
      return h("button", { type: "button", class: "chip", onclick: () => { kind = name; kinds.set(name); go({ layer: Math.floor(at / example.heads), head: at % example.heads }); } }, `Strongest: ${title.toLowerCase()}`);
    });
    const named = (data.notable || []).filter((one) => (one.example ?? number) === number).map((one) => h("button", { type: "button", class: "chip", onclick: () => go(one) }, one.name));
    found.replaceChildren(...strongest, ...named);
  }

  function update() {
    const began = performance.now();
    if (!size) measure();
    lay();
    const T = example.tokens.length;
    const at = layer * example.heads + head;
    const shares = example.scores[kind];
    cells.forEach((cell, k) => {
      const [l, m] = [Math.floor(k / heads), k % heads];
      const inUse = l < example.layers && m < example.heads;
      cell.setAttribute("fill-opacity", (inUse ? 0.06 + 0.94 * shares[l * example.heads + m] : 0).toFixed(3));
    });
    frame(ring, size.left + head * size.w - 1.5, 0.5 + layer * size.h, size.w + 1.5, size.h + 1.5);
    const base = at * T * T;
    let k = 0;
    for (let t = 0; t < T; t++) for (let c = 0; c <= t; c++, k++) grid[k].setAttribute("fill-opacity", (0.05 + 0.95 * example.weights[base + t * T + c]).toFixed(3));
    frame(band, size.names - 1.5, position * size.high - 1, Math.max(4, size.other - size.names - 1), size.high + 1);
    const row = Array.from(example.weights.subarray(base + position * T, base + position * T + position + 1));
    const best = row.indexOf(Math.max(...row));
    pieces.forEach((piece, t) => {
      piece.style.setProperty("--weight", t <= position ? row[t].toFixed(3) : "0");
      piece.classList.toggle("later", t > position);
      piece.setAttribute("aria-pressed", String(t === position));
    });
    const spread = tokensRead(row);
    tiles.most.value(label(example.tokens[best]));
    tiles.most.note(`${percent(row[best])}, token ${best + 1}`);
    tiles.first.value(percent(row[0]));
    tiles.first.note(`${percent(example.scores.first[at])} on average`);
    tiles.before.value(position ? percent(row[position - 1]) : "–");
    tiles.before.note(`${percent(example.scores.previous[at])} on average`);
    tiles.wide.value(fixed(spread, 1));
    tiles.wide.note(`of ${position + 1} it may read`);
    const next = data.next && data.next[number];
    const says = next && position === T - 1 ? ` After the whole text the model expects ${next.slice(0, 3).map(([token, p]) => `“${label(token)}” (${percent(p)})`).join(", ")}.` : "";
    say(verdict, `Layer ${layer + 1}, head ${head + 1}: ${percent(shares[at])} of its attention ${KINDS[kind].tell}, on average.${says}`);
    say(mapTitle, `Heads of ${example.layers} layers, coloured by the share of attention ${KINDS[kind].short}. Layer ${layer + 1}, head ${head + 1} is chosen: ${percent(shares[at])}.`);
    say(squareTitle, `Weights of layer ${layer + 1}, head ${head + 1} on “${example.title}”. Token ${position + 1} reads token ${best + 1} most: ${percent(row[best])}.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, example: number, layer, head, position, kind, row, best, spread, share: shares[at] } }));
  }

  whenWide(square, () => { measure(); update(); });
}

define("alignlab-attention_heads", attentionHeads, { unpackWeights, headScores, tokensRead });
