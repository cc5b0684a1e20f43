// <alignlab-retrieval_space>: a map of a book's chunks; one question after another on it, and what three searches find.
//
// Data: {pages: [text], points: [{x, y, page}], snippets: [{chunk, title, text}], queries: [{text, kind, x, y, answers: [chunk],
// dense: [[chunk, cosine]], bm25: [[chunk, score]]}], k, threshold}. x and y in [-1, 1]; page and chunk are indices, of pages and
// points; snippets for the chunks that can be shown; dense and bm25 the first of each ranking, best first. May be added: start:
// {query, mode}, try.

/** Reciprocal rank fusion of rankings, each a list of [chunk, score]: [[chunk, 1/(k + rank) summed]], best first, ties as first met. */
function fuse(rankings, k) {
  const scores = new Map();
  for (const ranking of rankings) ranking.forEach(([chunk], at) => scores.set(chunk, (scores.get(chunk) || 0) + 1 / (k + at + 1)));
  return [...scores].sort((a, b) => b[1] - a[1]);
}

/** The place, from 1, of the first chunk that answers; 0 if it is not in the ranking. */
const firstRank = (ranking, answers) => ranking.findIndex(([chunk]) => answers.includes(chunk)) + 1;

const KINDS = { plain: "Plain questions", paraphrase: "Other words than the book's", term: "A term to look up", none: "Not answered in the book" };
const SHOWN = 5;

function retrievalSpace(host, root, data) {
  const { points, queries } = data;
  const snippets = new Map(data.snippets.map((one) => [one.chunk, one]));
  const titled = (chunk) => (snippets.get(chunk) || { title: "a chunk" }).title;
  const start = data.start || {};
  let at = Math.min(queries.length - 1, start.query || 0);
  let mode = start.mode || "hybrid";
  let k = data.k || 60;
  let threshold = data.threshold;

  const ranked = (query, by) => (by === "hybrid" ? fuse([query.dense, query.bm25], k) : query[by]);

  // ---- controls
  const pickId = `al-query-${++serial}`;
  const select = h("select", { id: pickId, onchange: () => go(+select.value) },
    Object.entries(KINDS).map(([kind, name]) => h("optgroup", { label: name }, queries.map((query, n) => (query.kind === kind ? h("option", { value: n }, query.text) : null)))));
  const modes = choice({ label: "How to search", options: [["dense", "Dense"], ["bm25", "BM25"], ["hybrid", "Hybrid"]], value: mode, onchoose: (v) => { mode = v; update(); } });
  const order = queries.map((_, n) => n);
  const walk = slider({ label: "Question", values: order, value: at, show: (v) => `${v + 1} of ${queries.length}`, speak: (v) => queries[v].text, oninput: (v) => go(v) });
  const smooth = slider({ label: "k of the fusion", values: [0, 1, 2, 5, 10, 20, 40, 60, 100, 200], value: k, show: String, oninput: (v) => { k = v; update(); } });
  const refuse = slider({ label: "Refuse below cosine", values: range(0, 0.8, 0.02), value: threshold, show: (v) => fixed(v, 2), oninput: (v) => { threshold = v; update(); } });
  const step = (by) => go((at + by + queries.length) % queries.length);
  const buttons = h("div", { class: "buttons" },
    h("button", { type: "button", class: "chip", onclick: () => step(-1) }, "Previous question"),
    h("button", { type: "button", class: "chip", onclick: () => step(1) }, "Next question"));

  // ---- map
  const height = 380;
  const title = s("title");
  const dots = s("g");
  const rays = s("path", { class: "rays" });
  const answers = s("g");
  const found = Array.from({ length: SHOWN }, (_, n) => s("g", { class: "found" }, s("circle", { r: 10 }), s("text", { "text-anchor": "middle", y: 4 }, String(n + 1))));
  const here = s("path", { class: "query", d: "M0 -10L10 0L0 10L-10 0Z" });
  const map = s("svg", { class: "map", height, role: "img" }, title, dots, rays, answers, ...found, here);
  let wide = 0;
  const spot = ({ x, y }) => [wide / 2 + (x * (wide - 36)) / 2, height / 2 - (y * (height - 36)) / 2];
  const put = (node, one) => {
    const [x, y] = spot(one);
    node.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
  };
  const group = (page) => (page === "glossary" || page === "outline" ? page : page.startsWith("ch") ? "chapter" : "front");
  const groups = data.pages.map(group);
  function frame() {
    const now = map.getBoundingClientRect().width || 600;
    if (now === wide) return;
    wide = now;
    map.setAttribute("viewBox", `0 0 ${wide} ${height}`);
    dots.replaceChildren(...points.map((point) => {
      const [x, y] = spot(point);
      return s("circle", { class: groups[point.page], cx: x.toFixed(1), cy: y.toFixed(1), r: 3.2 });
    }));
  }

  // ---- list
  const cards = Array.from({ length: SHOWN }, (_, n) => {
    const card = { where: h("b"), what: h("p"), score: h("span", { class: "score" }), flag: h("span", { class: "flag", "aria-hidden": "true" }), told: h("span", { class: "unseen" }) };
    card.root = h("li", null, h("i", { class: "place" }, String(n + 1)), h("div", null, h("div", { class: "line" }, card.where, card.flag, card.score), card.told, card.what));
    return card;
  });
  const list = h("ol", { class: "hits", "aria-label": "What the search finds first" }, cards.map((card) => card.root));
  const tiles = { dense: tile("Answer, dense", ""), bm25: tile("Answer, BM25", ""), hybrid: tile("Answer, hybrid", ""), cosine: tile("Best cosine", "") };
  const asked = h("p", { class: "asked" });
  const verdict = h("p", { class: "verdict", role: "status" });
  const attempt = invitation(host, data, "Step through the questions. Where does one search find what the other misses?");
  root.append(h("section", { class: "explorer retrieval", "aria-label": "Explorer: what a search finds in this book" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: pickId }, "Ask"), select), modes.root),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    asked,
    h("div", { class: "two" },
      h("figure", null, map, h("figcaption", null,
        h("span", null, h("i", { class: "key query" }), "question"), h("span", null, h("i", { class: "key hit" }), "found, by rank"), h("span", null, h("i", { class: "key right" }), "holds the answer"),
        h("span", null, h("i", { class: "key chapter" }), "chapter 3"), h("span", null, h("i", { class: "key glossary" }), "glossary"), h("span", null, h("i", { class: "key rest" }), "other pages"))),
      list),
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    verdict,
    h("div", { class: "knobs" }, walk.root, smooth.root, refuse.root),
    buttons,
    h("footer", null, `${count(points.length)} chunks of this book, embedded by all-MiniLM-L6-v2. The map (t-SNE) has 2 of 384 dimensions: near is mostly near, far means little. The lists are by the true scores.`)));

  function go(to) {
    at = to;
    walk.set(at);
    update();
  }

  const written = (rank) => (rank ? `rank ${rank}` : "not found");
  function update() {
    const began = performance.now();
    frame();
    const query = queries[at];
    const ranking = ranked(query, mode);
    const top = ranking.slice(0, SHOWN);
    select.value = String(at);
    say(asked, query.text);
    put(here, query);
    rays.setAttribute("d", top.map(([chunk]) => `M${spot(query).map((v) => v.toFixed(1)).join(" ")}L${spot(points[chunk]).map((v) => v.toFixed(1)).join(" ")}`).join("") || "M0 0");
    found.forEach((node, n) => {
      node.setAttribute("visibility", n < top.length ? "visible" : "hidden");
      if (n < top.length) put(node, points[top[n][0]]);
    });
    answers.replaceChildren(...query.answers.map((chunk) => {
      const [x, y] = spot(points[chunk]);
      return s("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 13.5 });
    }));
    cards.forEach((card, n) => {
      card.root.classList.toggle("none", n >= top.length);
      const [chunk, score] = top[n] || [0, 0];
      card.root.classList.toggle("right", n < top.length && query.answers.includes(chunk));
      say(card.where, n < top.length ? titled(chunk) : "–");
      say(card.flag, n < top.length && query.answers.includes(chunk) ? "✓" : "");
      say(card.told, n < top.length && query.answers.includes(chunk) ? "Holds the answer." : "");
      say(card.score, n < top.length ? (mode === "hybrid" ? fixed(score, 4) : fixed(score, 2)) : "");
      say(card.what, n < top.length ? (snippets.get(chunk) || { text: "" }).text : "This search finds no more.");
    });
    const ranks = Object.fromEntries(["dense", "bm25", "hybrid"].map((by) => [by, firstRank(ranked(query, by), query.answers)]));
    const none = query.kind === "none", cut = !none && !query.answers.length; // cut: no chunk holds the evidence whole
    for (const by of ["dense", "bm25", "hybrid"]) tiles[by].value(none ? "none here" : cut ? "cut through" : written(ranks[by]));
    const best = query.dense.length ? query.dense[0][1] : 0;
    tiles.cosine.value(fixed(best, 2));
    const silent = best < threshold;
    verdict.classList.toggle("bad", silent !== none);
    say(verdict, silent
      ? `Refused: the best cosine, ${fixed(best, 2)}, is below ${fixed(threshold, 2)}. ${none ? "Rightly so; the book does not say." : "Wrongly so; the book has the answer."}`
      : `Answered: the best cosine, ${fixed(best, 2)}, reaches ${fixed(threshold, 2)}. ${none ? "Wrongly so; nothing here holds the answer, and a model would make one up." : ranks[mode] && ranks[mode] <= SHOWN ? "The model would read the answer." : cut ? "But the cutting went through the answer: no chunk holds it whole." : "But the model would not get to read the answer."}`);
    say(title, `Map of the chunks. ${query.text} First found: ${top.map(([chunk]) => titled(chunk)).join("; ")}.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, at, mode, k, ranking, ranks, silent } }));
  }

  whenWide(map, update);
}

define("alignlab-retrieval_space", retrievalSpace, { fuse, firstRank });
