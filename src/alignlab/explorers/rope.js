// <alignlab-rope>: rotary positions on real queries and keys: where a head's last token looks, with another base and other positions.
//
// Data: {theta, size, context, heads: [{name, layer, head}], examples: [{question, tokens: [text], heads: [{scale, bits, row}]}]}.
// bits: 16-bit integers, little-endian, in base64: first the last token's query, then every token's key, each of `size` numbers, before
// rotation, to be multiplied by scale. row: the model's own weights of the last token. May be added: start: {example, head}.

/** The vectors of one head: {query, keys}. */
function unpackHead({ scale, bits }, size) {
  const raw = atob(bits);
  const vectors = [];
  for (let at = 0; at < raw.length; at += 2 * size) {
    vectors.push(Float64Array.from({ length: size }, (_, i) => {
      const whole = raw.charCodeAt(at + 2 * i) | (raw.charCodeAt(at + 2 * i + 1) << 8);
      return scale * (whole > 32767 ? whole - 65536 : whole);
    }));
  }
  return { query: vectors[0], keys: vectors.slice(1) };
}

/** Radians a position, for each pair (i, i + size / 2). */
const frequencies = (size, theta) => Array.from({ length: size / 2 }, (_, i) => theta ** ((-2 * i) / size));

/** A query or key, each pair turned by position times frequency. */
function turn(vector, position, speeds) {
  const half = speeds.length;
  const out = new Float64Array(2 * half);
  for (let i = 0; i < half; i++) {
    const [c, s] = [Math.cos(position * speeds[i]), Math.sin(position * speeds[i])];
    out[i] = vector[i] * c - vector[i + half] * s;
    out[i + half] = vector[i + half] * c + vector[i] * s;
  }
  return out;
}

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

/** Scores and weights of the last token over all, at given positions: both sides are turned, then multiplied. */
function look({ query, keys }, positions, speeds) {
  const turned = turn(query, positions[positions.length - 1], speeds);
  const scores = keys.map((key, n) => dot(turned, turn(key, positions[n], speeds)) / Math.sqrt(query.length));
  const most = Math.max(...scores);
  const odds = scores.map((score) => Math.exp(score - most));
  const sum = odds.reduce((a, b) => a + b, 0);
  return { scores, weights: odds.map((x) => x / sum) };
}

/** The score of a query and a key by their distance alone. */
function scoreAt(query, key, distance, speeds) {
  const half = speeds.length;
  let total = 0;
  for (let i = 0; i < half; i++) {
    const along = query[i] * key[i] + query[i + half] * key[i + half];
    const across = query[i + half] * key[i] - query[i] * key[i + half];
    total += along * Math.cos(distance * speeds[i]) - across * Math.sin(distance * speeds[i]);
  }
  return total / Math.sqrt(query.length);
}

const DIALS = 8;
const REACH = 64;

function rope(host, root, data) {
  const start = data.start || {};
  let example = data.examples[start.example || 0];
  let at = start.head || 0;
  let [theta, stretch, shift] = [data.theta, 1, 0];
  let chosen = 0;
  const rows = Math.max(...data.examples.map((one) => one.tokens.length));
  const own = frequencies(data.size, data.theta);
  const heads = new Map();
  const headOf = () => {
    const key = example.heads[at];
    if (!heads.has(key)) heads.set(key, unpackHead(key, data.size));
    return heads.get(key);
  };
  /** The key that is looked at most, the first token aside. */
  const favourite = () => {
    const { row } = example.heads[at];
    return row.reduce((best, w, n) => (n > 0 && n < row.length - 1 && w > row[best] ? n : best), 1);
  };

  const base = (v) => `10${"⁰¹²³⁴⁵⁶⁷⁸⁹"[Math.round(Math.log10(v))]}`;
  const thetas = slider({ label: "Base θ", values: [100, 1e3, 1e4, 1e5, 1e6, 1e7], value: theta, show: base, speak: (v) => count(v), oninput: (v) => { theta = v; update(); } });
  const stretches = slider({ label: "Positions times", values: [0, 0.25, 0.5, 1, 2, 4, 8], value: 1, show: (v) => `×${v}`, speak: (v) => `times ${v}`, oninput: (v) => { stretch = v; update(); } });
  const shifts = slider({ label: "Shift all by", values: [0, 1, 10, 100, 1000, 5000, 20000], value: 0, show: (v) => `+${count(v)}`, speak: (v) => `plus ${v}`, oninput: (v) => { shift = v; update(); } });
  const exampleChoice = choice({ label: "Question", options: data.examples.map((one, k) => [k, one.question]), value: data.examples.indexOf(example), onchoose: (k) => { example = data.examples[k]; chosen = favourite(); fill(); update(); } });
  const headChoice = choice({ label: "Head", options: data.heads.map((one, k) => [k, one.name]), value: at, onchoose: (k) => { at = k; chosen = favourite(); update(); } });
  const back = h("button", { type: "button", class: "chip", onclick: () => { [theta, stretch, shift] = [data.theta, 1, 0]; thetas.set(theta); stretches.set(1); shifts.set(0); update(); } }, "As trained");

  const lines = Array.from({ length: rows }, (_, n) => {
    const [name, ghost, bar, number] = [h("span", { class: "token" }), h("i", { class: "ghost" }), h("i", { class: "bar" }), h("span", { class: "share" })];
    const button = h("button", { type: "button", class: "look", onclick: () => { chosen = n; update(); } }, name, h("span", { class: "lane" }, ghost, bar), number);
    return { name, ghost, bar, number, button, root: h("li", null, button) };
  });

  const chart = axes({ height: 230, left: 46, attributes: { role: "img", class: "reach" } });
  const chartTitle = s("title");
  const [trained, now, here] = [s("path", { class: "was" }), s("path", { class: "now" }), s("circle", { class: "here", r: 6 })];
  chart.svg.prepend(chartTitle);
  chart.marks.append(trained, now);
  chart.over.append(here);

  const dialTitle = s("title");
  const dials = s("svg", { class: "dials", viewBox: "0 0 400 132", role: "img" }, dialTitle);
  const pairOf = (k) => Math.floor((k * data.size) / 2 / DIALS);
  const hands = Array.from({ length: DIALS }, (_, k) => {
    const [x, y] = [26 + k * 49.7, 34];
    const [q, key, name, angle] = [s("line", { class: "q", x1: x, y1: y }), s("line", { class: "k", x1: x, y1: y }), s("text", { x, y: y + 42, "text-anchor": "middle" }), s("text", { class: "angle", x: x - 20, y: y + 60 })];
    dials.append(s("circle", { class: "rim", cx: x, cy: y, r: 22 }), key, q, name, angle);
    say(name, String(pairOf(k)));
    return { x, y, q, key, angle, pair: pairOf(k) };
  });
  dials.append(s("text", { x: 4, y: 124 }, "pair, and the angle from key to query"));

  const tiles = { weight: tile("Weight of this key", ""), score: tile("Its score", ""), moved: tile("Weight that moved", "of all"), turns: tile("Past half a turn", `of ${data.size / 2} pairs`) };
  const verdict = h("p", { class: "verdict", role: "status" });
  const attempt = invitation(host, data, "Shift all positions by 5,000: nothing moves. Then multiply them by 0, and choose the head that looks one token back.");
  root.append(h("section", { class: "explorer rope", "aria-label": "Explorer: rotary positions on real queries and keys" },
    h("header", null, exampleChoice.root, headChoice.root),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "knobs" }, thetas.root, stretches.root, shifts.root),
    h("div", { class: "body" },
      h("figure", null,
        h("figcaption", null, h("span", null, "Where the last token looks"), h("span", { class: "legend" }, h("span", null, h("i", { class: "key was" }), "as trained"), h("span", null, h("i", { class: "key now" }), "now"))),
        h("ol", { class: "looks" }, lines.map((line) => line.root))),
      h("div", null,
        h("figure", null, h("figcaption", null, "Score of the chosen key, were it so far away"), chart.svg),
        h("figure", null, h("figcaption", null, h("span", { class: "legend" }, h("span", null, h("i", { class: "key q" }), "query"), h("span", null, h("i", { class: "key k" }), "key")), " turned by their positions, eight of the pairs"), dials))),
    h("div", { class: "buttons" }, back),
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    verdict,
    h("footer", null, `SmolLM2's own queries and keys before rotation, ${data.size} numbers each; other layers stay as they were. Both are turned by their positions, then multiplied.`)));

  /** The tokens of a question: new nodes, which have not moved. */
  function fill() {
    lines.forEach((line, n) => {
      line.button.hidden = n >= example.tokens.length;
      const name = h("span", { class: "token" }, tokenText(example.tokens[n] || ""));
      line.name.replaceWith(name);
      line.name = name;
    });
  }

  function update() {
    const began = performance.now();
    const head = headOf();
    const length = example.tokens.length;
    const speeds = frequencies(data.size, theta);
    const positions = example.tokens.map((_, n) => shift + stretch * n);
    const found = look(head, positions, speeds);
    const usual = look(head, example.tokens.map((_, n) => n), own);
    const moved = 0.5 * found.weights.reduce((sum, w, n) => sum + Math.abs(w - usual.weights[n]), 0);
    lines.forEach((line, n) => {
      if (n >= length) return;
      line.bar.style.width = `${(100 * found.weights[n]).toFixed(2)}%`;
      line.ghost.style.width = `${(100 * usual.weights[n]).toFixed(2)}%`;
      say(line.number, percent(found.weights[n]));
      line.button.setAttribute("aria-pressed", String(n === chosen));
    });
    const key = head.keys[chosen];
    const distance = stretch * (length - 1 - chosen);
    const curve = range(0, REACH, 0.5);
    const before = curve.map((d) => scoreAt(head.query, key, d, own));
    const after = curve.map((d) => scoreAt(head.query, key, d, speeds));
    chart.frame({ x: [0, REACH], y: extent([...before, ...after]), xName: "distance, tokens", yName: "score", xTicks: [0, 16, 32, 48, 64], xText: String });
    const drawn = (values) => trace(curve.map((d, i) => [chart.x(d), chart.y(values[i])]));
    trained.setAttribute("d", drawn(before));
    now.setAttribute("d", drawn(after));
    const inside = distance <= REACH;
    here.setAttribute("visibility", inside ? "visible" : "hidden");
    if (inside) {
      here.setAttribute("cx", chart.x(distance).toFixed(1));
      here.setAttribute("cy", chart.y(found.scores[chosen]).toFixed(1));
    }
    say(chartTitle, `Score by distance for the key of ${JSON.stringify(example.tokens[chosen])}: ${brief(found.scores[chosen])} at distance ${distance}.`);
    const half = data.size / 2;
    for (const hand of hands) {
      for (const [node, vector, position] of [[hand.q, head.query, positions[length - 1]], [hand.key, key, positions[chosen]]]) {
        const angle = Math.atan2(vector[hand.pair + half], vector[hand.pair]) + position * speeds[hand.pair];
        node.setAttribute("x2", (hand.x + 20 * Math.cos(angle)).toFixed(1));
        node.setAttribute("y2", (hand.y - 20 * Math.sin(angle)).toFixed(1));
      }
      const between = Math.atan2(head.query[hand.pair + half], head.query[hand.pair]) - Math.atan2(key[hand.pair + half], key[hand.pair]) + distance * speeds[hand.pair];
      const turns = between / (2 * Math.PI);
      say(hand.angle, `${fixed(360 * (turns - Math.round(turns)), 0)}°`);
    }
    say(dialTitle, `Eight pairs of the query and of the chosen key, turned by ${count(positions[length - 1])} and ${count(positions[chosen])} positions.`);
    const turnsPast = speeds.filter((speed) => speed * distance > Math.PI).length;
    tiles.weight.value(percent(found.weights[chosen]));
    tiles.weight.note(`as trained ${percent(usual.weights[chosen])}`);
    tiles.score.value(brief(found.scores[chosen]));
    tiles.score.note(`as trained ${brief(usual.scores[chosen])}`);
    tiles.moved.value(percent(moved));
    tiles.turns.value(String(turnsPast));
    tiles.turns.note(`at distance ${distance}`);
    const { layer, head: number } = data.heads[at];
    const place = `Layer ${layer}, head ${number}`;
    const same = moved < 5e-4;
    const why = theta === data.theta && stretch === 1
      ? (shift ? `all ${length} tokens moved on by ${count(shift)}, and no distance changed${shift + length > data.context ? `, though these positions lie beyond the model's ${count(data.context)}` : ""}` : "positions as in training")
      : stretch === 0 ? "no positions: only what the tokens are counts" : `distances ${stretch === 1 ? "as they were" : `times ${stretch}`}, base ${base(theta)}`;
    say(verdict, `${place}: ${why}. ${same ? "Every weight is as trained." : `${percent(moved)} of the weight moved.`}`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, weights: found.weights, scores: found.scores, moved, chosen, distance } }));
  }

  chosen = favourite();
  fill();
  whenWide(chart.svg, update);
}

define("alignlab-rope", rope, { unpackHead, frequencies, turn, look, scoreAt });
