// <alignlab-beam_tree>: beam search step by step on a model's real scores; width, length penalty and way of stopping at will.
//
// Data: {model, widest, depth, trees: [{title, nodes: [{parent, text, logprob, end}]}]}; may be added: start {tree, width, alpha,
// early, step}, try. A node's place in the list, counted from 1, is its number; 0 is the prompt. The list holds every candidate
// that a beam of width 1 to `widest` looks at, so that the search below finds what alignlab.decoding.beam_search finds.

/** The list as a tree: children of each node, by number. */
function prepare(nodes) {
  const children = Array.from({ length: nodes.length + 1 }, () => []);
  nodes.forEach((node, k) => children[node.parent].push(k + 1));
  return { children, logprob: [0, ...nodes.map((n) => n.logprob)], end: [false, ...nodes.map((n) => n.end)], parent: [-1, ...nodes.map((n) => n.parent)], text: ["", ...nodes.map((n) => n.text)] };
}

/**
 * Beam search as in alignlab.decoding.Beams. Gives for each step its candidates, best first, each {node, total, rank, fate: kept,
 * finished or dropped}, the running beams and the finished texts {node, total, length, score, ended}; why it ended.
 */
function search(tree, { width, alpha, early, depth }) {
  let running = [{ node: 0, total: 0 }];
  let finished = [];
  const steps = [];
  let why = "";
  for (let length = 1; !why; length++) {
    const last = length === depth;
    const candidates = running
      .flatMap((beam) => tree.children[beam.node].map((node) => ({ node, total: beam.total + tree.logprob[node] })))
      .sort((a, b) => b.total - a.total)
      .slice(0, 2 * width);
    const going = [];
    const ended = [];
    candidates.forEach((one, rank) => {
      one.rank = rank;
      one.fate = "dropped";
      if (last || tree.end[one.node]) {
        if (rank < width) {
          one.fate = "finished";
          ended.push({ node: one.node, total: one.total, length, score: one.total / length ** alpha, ended: tree.end[one.node] });
        }
      } else if (going.length < width) {
        one.fate = "kept";
        going.push(one);
      }
    });
    finished = [...finished, ...ended].sort((a, b) => b.score - a.score).slice(0, width);
    running = going;
    steps.push({ candidates, running, finished });
    if (last) why = "the last token";
    else if (!going.length) why = "every beam ended";
    else if (finished.length === width) {
      const longest = early === "never" && alpha > 0 ? depth : length;
      const worst = finished[width - 1].score;
      if (early === true) why = "as many texts are finished as there are beams";
      else if (going[0].total / longest ** alpha <= worst) why = "no running beam can still win a place";
    }
  }
  return { steps, why };
}

/** The tokens of a node, from the prompt on, its own last. */
function path(tree, node) {
  const nodes = [];
  for (let at = node; at > 0; at = tree.parent[at]) nodes.unshift(at);
  return nodes;
}

const CHIP = 120;
const COLUMN = 142;
const ROW = 28;

function beamTree(host, root, data) {
  const trees = data.trees.map((one) => prepare(one.nodes));
  const start = data.start || {};
  let which = Math.min(start.tree || 0, trees.length - 1);
  let settings = { width: Math.min(start.width || 3, data.widest), alpha: start.alpha ?? 1, early: start.early ?? false, depth: data.depth };
  let step = Math.min(start.step || 1, data.depth);

  const pickId = `al-tree-${++serial}`;
  const select = h("select", { id: pickId, onchange: () => { which = +select.value; update(); } }, data.trees.map((one, k) => h("option", { value: k, selected: k === which }, one.title)));
  const widthSlider = slider({ label: "Width", values: range(1, data.widest, 1), value: settings.width, show: String, oninput: (v) => { settings = { ...settings, width: v }; update(); } });
  const alphaSlider = slider({ label: "Length penalty", values: range(0, 2, 0.25), value: settings.alpha, show: (v) => fixed(v, 2), oninput: (v) => { settings = { ...settings, alpha: v }; update(); } });
  const stepSlider = slider({ label: "Step", values: range(1, data.depth, 1), value: step, show: String, oninput: (v) => { step = v; update(); } });
  const earlyChoice = choice({ label: "early_stopping", options: [[false, "False"], [true, "True"], ["never", "never"]], value: settings.early, onchoose: (v) => { settings = { ...settings, early: v }; update(); } });
  const move = (to) => () => { step = Math.max(1, Math.min(data.depth, to())); stepSlider.set(step); update(); };
  const back = h("button", { type: "button", class: "chip", onclick: move(() => step - 1) }, "Back");
  const next = h("button", { type: "button", class: "chip", onclick: move(() => step + 1) }, "Next step");
  const end = h("button", { type: "button", class: "chip", onclick: move(() => data.depth) }, "To the end");

  const high = 14 + 2 * data.widest * ROW;
  const wide = 26 + data.depth * COLUMN;
  const title = s("title");
  const edges = s("g");
  const chips = s("g");
  const svg = s("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", style: `width:${wide}px;height:${high}px` }, title, edges, chips);
  const pane = h("div", { class: "pane", tabindex: 0, role: "region", "aria-label": "The tree, scrolls sideways" }, svg);
  const lines = (heading, unit) => {
    const rows = Array.from({ length: data.widest }, () => ({ text: h("span", { class: "said" }), number: h("span", { class: "amount" }), row: null }));
    rows.forEach((one) => { one.row = h("li", null, one.text, one.number); });
    return { rows, root: h("div", { class: "texts" }, h("div", { class: "heading" }, h("b", null, heading), h("span", null, unit)), h("ol", null, rows.map((one) => one.row))) };
  };
  const running = lines("Running", "log-probability");
  const finished = lines("Finished", "score = log-probability / length^penalty");
  const tiles = { best: tile("Best score", ""), logp: tile("Its log-probability", "nats"), greedy: tile("Greedy text", "nats"), ended: tile("Search ends", "") };
  const verdict = h("p", { class: "verdict", role: "status" });
  const attempt = invitation(host, data, "Step through the search; then move the length penalty to 0.");

  root.append(h("section", { class: "explorer beams", "aria-label": "Explorer: a beam tree" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: pickId }, "Prompt"), select), h("div", { class: "early" }, h("code", null, "early_stopping"), earlyChoice.root)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "controls" }, widthSlider.root, alphaSlider.root, stepSlider.root),
    h("div", { class: "buttons" }, back, next, end, h("span", { class: "legend" }, ["kept", "finished", "dropped"].map((name) => h("span", null, h("i", { class: `box ${name}` }), name)))),
    pane,
    h("div", { class: "lists" }, running.root, finished.root),
    h("div", { class: "figures of-4" }, Object.values(tiles).map((t) => t.root)),
    verdict,
    h("footer", null, `Log-probabilities in nats under ${data.model}. Each step lists the 2W best continuations of all beams: of the first W those that end are finished, of the others the best W go on.`)));

  const shown = (tree, node) => (tree.end[node] ? "end" : tree.text[node].replace(/ /g, "·").replace(/\n/g, "↵"));
  const clip = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
  const whole = (tree, node) => path(tree, node).map((at) => tree.text[at]).join("").trim().replace(/\s+/g, " ");

  function fill(list, tree, entries, value) {
    list.rows.forEach((one, k) => {
      const entry = entries[k];
      say(one.text, entry ? (entry.ended === false && entry.length ? whole(tree, entry.node) + " …" : whole(tree, entry.node)) : "");
      say(one.number, entry ? value(entry) : "");
      one.row.classList.toggle("none", !entry);
    });
  }

  function update() {
    const began = performance.now();
    const tree = trees[which];
    const { steps, why } = search(tree, settings);
    const now = Math.min(step, steps.length);
    const state = steps[now - 1];
    const over = now === steps.length;
    const best = state.finished[0];
    const front = over && best ? best : state.running[0] || best;
    const marked = new Set(front ? path(tree, front.node) : []);
    const row = Math.min(42, (high - 14) / (2 * settings.width));
    const spots = new Map([[0, { x: 12, y: 7 + row / 2 }]]);
    const drawn = [];
    const joined = [];
    steps.slice(0, now).forEach(({ candidates }, t) => {
      for (const one of candidates) {
        const x = 26 + t * COLUMN;
        const y = 7 + one.rank * row + row / 2;
        const from = spots.get(tree.parent[one.node]);
        const strong = marked.has(one.node) && one.fate !== "dropped";
        if (one.fate !== "dropped") spots.set(one.node, { x: x + CHIP, y });
        const bend = (x - from.x) / 2;
        joined.push([strong, s("path", { class: `edge ${one.fate}${strong ? " best" : ""}`, d: `M${from.x} ${from.y}C${from.x + bend} ${from.y} ${x - bend} ${y} ${x} ${y}` })]);
        drawn.push(s("g", { class: `node ${one.fate}${strong ? " best" : ""}` },
          s("rect", { x, y: y - 11, width: CHIP, height: 22, rx: 6 }),
          s("text", { x: x + 7, y: y + 4, class: tree.end[one.node] ? "word stop" : "word" }, clip(shown(tree, one.node), 7)),
          s("text", { x: x + CHIP - 7, y: y + 4, "text-anchor": "end", class: "total" }, fixed(one.total, 2))));
      }
    });
    edges.replaceChildren(...joined.sort((a, b) => a[0] - b[0]).map(([, line]) => line));
    chips.replaceChildren(s("circle", { class: "root", cx: 12, cy: 7 + row / 2, r: 5 }), ...drawn);
    say(title, `Step ${now} of beam search at width ${settings.width}: ${state.candidates.map((one) => `${shown(tree, one.node)} ${fixed(one.total, 2)} ${one.fate}`).join(", ")}.`);
    fill(running, tree, over ? [] : state.running, (one) => fixed(one.total, 2));
    fill(finished, tree, state.finished, (one) => fixed(one.score, 3));
    const greedy = search(tree, { ...settings, width: 1 }).steps.at(-1).finished[0];
    tiles.best.value(best ? fixed(best.score, 3) : "–");
    tiles.logp.value(best ? fixed(best.total, 2) : "–");
    tiles.greedy.value(greedy ? fixed(greedy.total, 2) : "–");
    tiles.ended.value(`step ${steps.length}`);
    say(verdict, over ? `The search ended with step ${steps.length}: ${why}. ${best ? `Its answer: “${whole(tree, best.node)}”${best.ended ? "" : " … (cut)"}.` : ""}` : `${state.running.length} running, ${state.finished.length} finished. The best so far: “${whole(tree, front.node)}”.`);
    const right = 26 + now * COLUMN;
    if (right > pane.scrollLeft + pane.clientWidth || right - COLUMN < pane.scrollLeft) pane.scrollLeft = Math.max(0, right - pane.clientWidth + 8);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, step: now, best, finished: state.finished } }));
  }

  update();
}

define("alignlab-beam_tree", beamTree, { prepare, search, path });
