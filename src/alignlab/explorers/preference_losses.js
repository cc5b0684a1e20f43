// <alignlab-preference_losses>: DPO and five relatives on the same real pairs; loss and gradient over the margin.
//
// Data: {points: [{name, chosen, rejected, chosen_logp, rejected_logp, chosen_tokens, rejected_tokens}], beta}. chosen and
// rejected are log-ratios to the reference, *_logp log-probabilities under the policy, all summed (nats). May be left out:
// *_logp and *_tokens (no ORPO, CPO, SimPO then). A name "prompt ... chosen | rejected" is taken apart, if prompt, chosen_text
// and rejected_text are not given. The settings to begin with may be added: tau, gamma, simpo_beta, orpo_beta, desirable_weight, undesirable_weight, kl, lengths ("trl" or "paper"), show.

/** Odds and ends of a probability given as its logarithm: log(p / (1 - p)) and 1 - p; NaN where there is no such p. */
const logOdds = (logp) => (logp < 0 ? logp - Math.log(-Math.expm1(logp)) : NaN);
const complement = (logp) => -Math.expm1(logp);

/**
 * Each loss of one pair, as alignlab.losses.preference has it: {loss, up, down}. up: -dL / d log pi(chosen), down:
 * dL / d log pi(rejected), both per nat of the summed log-probability. p: c, r log-ratios; lw, ll log-probabilities; nw, nl tokens.
 */
const LOSSES = {
  dpo(p, { beta }) {
    const u = beta * (p.c - p.r);
    return { loss: softplus(-u), up: beta * sigmoid(-u), down: beta * sigmoid(-u) };
  },
  ipo(p, { tau, lengths }) {
    const [nw, nl] = lengths === "paper" ? [1, 1] : [p.nw, p.nl];
    const gap = p.c / nw - p.r / nl - 1 / (2 * tau);
    return { loss: gap * gap, up: (-2 * gap) / nw, down: (-2 * gap) / nl };
  },
  kto(p, { beta, desirable, undesirable, kl }) {
    const z = Math.max(0, kl);
    const [good, bad] = [beta * (p.c - z), beta * (p.r - z)];
    return { loss: desirable * sigmoid(-good) + undesirable * sigmoid(bad),
      up: desirable * beta * sigmoid(good) * sigmoid(-good), down: undesirable * beta * sigmoid(bad) * sigmoid(-bad) };
  },
  orpo(p, { orpo }) {
    const [w, l] = [p.lw / p.nw, p.ll / p.nl];
    const odds = logOdds(w) - logOdds(l);
    const pull = orpo * sigmoid(-odds);
    return { loss: -w + orpo * softplus(-odds), up: (1 + pull / complement(w)) / p.nw, down: pull / complement(l) / p.nl };
  },
  cpo(p, { beta, lengths }) {
    if (p.lw > 0) return { loss: NaN, up: NaN, down: NaN };
    const n = lengths === "paper" ? 1 : p.nw;
    const u = beta * (p.lw - p.ll);
    return { loss: softplus(-u) - p.lw / n, up: beta * sigmoid(-u) + 1 / n, down: beta * sigmoid(-u) };
  },
  simpo(p, { simpo, gamma }) {
    const u = simpo * (p.lw / p.nw - p.ll / p.nl) - gamma;
    return { loss: softplus(-u), up: (simpo * sigmoid(-u)) / p.nw, down: (simpo * sigmoid(-u)) / p.nl };
  },
};

/** The margin of a pair: of log-ratios or of log-probabilities, summed or per token. */
function margin(p, { of, per }) {
  const [a, b] = of === "ratio" ? [p.c, p.r] : [p.lw, p.ll];
  return per === "token" ? a / p.nw - b / p.nl : a - b;
}

/** The pair after its summed margin has grown by d nats: chosen up by d / 2, rejected down by d / 2. */
const moved = (p, d) => ({ ...p, c: p.c + d / 2, r: p.r - d / 2, lw: p.lw + d / 2, ll: p.ll - d / 2 });

/** By how much the summed margin grows with the axis: 1, or more where the axis counts per token. */
const stretch = (p, { per }) => (per === "token" ? 2 / (1 / p.nw + 1 / p.nl) : 1);

/** Names, what each loss sees, and the axis on which its value depends on nothing but the margin. */
const METHODS = [
  ["dpo", "DPO", "−log σ(β Δ)", () => "reference · summed", () => ({ of: "ratio", per: "sum" })],
  ["ipo", "IPO", "(Δ − 1/2τ)²", (v) => `reference · ${v.lengths === "paper" ? "summed" : "per token"}`, (v) => ({ of: "ratio", per: v.lengths === "paper" ? "sum" : "token" })],
  ["kto", "KTO", "λ σ(∓β(log-ratio − z)) of each", () => "reference · summed, no pairs", () => null],
  ["orpo", "ORPO", "SFT − β log σ(log odds ratio)", () => "no reference · per token", () => null],
  ["cpo", "CPO", "SFT − log σ(β Δ)", (v) => `no reference · summed${v.lengths === "paper" ? "" : ", SFT per token"}`, () => null],
  ["simpo", "SimPO", "−log σ(β Δ − γ)", () => "no reference · per token", () => ({ of: "logp", per: "token" })],
];

const BETAS = powers(-2, 0.6, 0.05);

function preferenceLosses(host, root, data) {
  const number = (x) => (Number.isFinite(x) ? x : NaN);
  const pairs = data.points.map((point) => ({ point, c: point.chosen, r: point.rejected, lw: number(point.chosen_logp), ll: number(point.rejected_logp),
    nw: number(point.chosen_tokens), nl: number(point.rejected_tokens) }));
  const known = (key) => data[key] !== undefined && data[key] !== null;
  const settings = { beta: data.beta || 0.1, tau: data.tau || 0.5, gamma: known("gamma") ? data.gamma : 0.5, simpo: data.simpo_beta || 2, orpo: data.orpo_beta || 0.1,
    desirable: data.desirable_weight || 1, undesirable: data.undesirable_weight || 1, kl: data.kl || 0, lengths: data.lengths || "trl" };
  const axis = { of: "ratio", per: "sum" };
  const shown = new Set(data.show || ["dpo", "ipo", "kto", "simpo"]);
  let unit = "own";
  const start = pairs.map((p) => Math.abs(p.c - p.r));
  let picked = start.indexOf([...start].sort((a, b) => a - b)[start.length >> 2]);

  // Charts. Each pair is one option of the first: a group of dots, one dot for each method.
  const options = pairs.map((p, k) => s("g", { role: "option", id: `al-pair-${serial}-${k}`, "aria-label": `Pair ${k + 1}: ${p.point.name || p.point.prompt || ""}` }));
  const loss = axes({ height: 300, attributes: { class: "plane", tabindex: 0, role: "listbox", "aria-label": "Loss of each pair over its margin. Arrow keys go from pair to pair." } });
  const pull = axes({ height: 300, left: 50, attributes: { class: "plane", role: "img" } });
  const pullTitle = s("title");
  pull.svg.prepend(pullTitle);
  const charts = [[loss, "loss"], [pull, "pull"]].map(([chart, what], place) => {
    const lines = METHODS.map(([key]) => s("path", { class: `method ${key}` }));
    const head = s("line", { class: "head" });
    const groups = place === 0 ? options : pairs.map(() => s("g"));
    const dots = groups.map((group) => METHODS.map(([key]) => {
      const dot = s("circle", { class: key });
      group.append(dot);
      return dot;
    }));
    chart.marks.append(head, ...lines, ...groups);
    return { chart, what, lines, head, groups, dots, at: [] };
  });

  // The methods: what each sees, and what it makes of the picked pair.
  const rows = METHODS.map(([key, name, formula]) => {
    const id = `al-method-${++serial}`;
    const box = h("input", { id, type: "checkbox", checked: shown.has(key), onchange: () => { if (box.checked) shown.add(key); else shown.delete(key); update(); } });
    const cells = { sees: h("span", { class: "sees", role: "cell" }), loss: h("span", { class: "value", role: "cell" }), up: h("span", { class: "value", role: "cell" }), down: h("span", { class: "value", role: "cell" }) };
    const root = h("div", { class: `method-row ${key}`, role: "row" },
      h("span", { class: "method-name", role: "rowheader" }, box, h("label", { for: id }, s("svg", { class: "line-key", viewBox: "0 0 26 4", "aria-hidden": "true" }, s("path", { class: `method ${key}`, d: "M0 2H26" })), h("b", null, name))),
      h("span", { class: "formula", role: "cell" }, formula), cells.sees, cells.loss, cells.up, cells.down);
    return { root, box, cells };
  });
  const table = h("div", { class: "methods", role: "table", "aria-label": "The methods, and what each makes of the picked pair" },
    h("div", { class: "method-row top", role: "row" }, h("span", { role: "columnheader" }, "method"), h("span", { class: "formula", role: "columnheader" }, "loss of a pair"), h("span", { class: "sees", role: "columnheader" }, "what it sees"),
      h("span", { class: "value", role: "columnheader" }, "loss"), h("span", { class: "value up", role: "columnheader" }, "chosen ↑"), h("span", { class: "value down", role: "columnheader" }, "rejected ↓")),
    rows.map((row) => row.root));

  const set = (key) => (value) => { settings[key] = value; update(); };
  const control = (key, label, values) => slider({ label, values, value: settings[key], show: (v) => (v < 0.1 && v > 0 ? fixed(v, 3) : fixed(v, 2)), oninput: set(key) });
  const controls = [
    control("beta", "β · DPO, KTO, CPO", BETAS),
    control("tau", "τ · IPO", powers(-1.5, 0.5, 0.05)),
    control("desirable", "λ desirable · KTO", range(0.1, 3, 0.1)),
    control("undesirable", "λ undesirable · KTO", range(0.1, 3, 0.1)),
    control("kl", "z · KTO", range(0, Math.max(10, Math.ceil(settings.kl)), 0.25)),
    control("orpo", "β · ORPO", BETAS),
    control("simpo", "β · SimPO", powers(-1, 1, 0.05)),
    control("gamma", "γ · SimPO", range(0, 5, 0.1)),
  ];
  const of = choice({ label: "Margin of", options: [["ratio", "log-ratios"], ["logp", "log-probabilities"]], value: axis.of, onchoose: (v) => { axis.of = v; update(); } });
  const per = choice({ label: "Length", options: [["sum", "summed"], ["token", "per token"]], value: axis.per, onchoose: (v) => { axis.per = v; update(); } });
  const units = choice({ label: "Height of the curves", options: [["own", "own units"], ["one", "each 1 at margin 0"]], value: unit, onchoose: (v) => { unit = v; update(); } });
  const lengths = choice({ label: "Lengths in IPO and in the SFT term of CPO", options: [["trl", "per token (trl)"], ["paper", "summed (paper)"]], value: settings.lengths, onchoose: set("lengths") });
  const whole = pairs.every((p) => [p.lw, p.ll, p.nw, p.nl].every(Number.isFinite));
  const counted = pairs.every((p) => p.nw > 0 && p.nl > 0);

  const card = { title: h("b"), name: h("p"), prompt: h("p"), chosen: h("p"), rejected: h("p"), numbers: [h("div"), h("div"), h("div")] };
  const texts = pairs.map(({ point }) => {
    const apart = /^(.*?) \.\.\. ?(.*) \| (.*)$/s.exec(point.name || "");
    return point.chosen_text ? [point.prompt || "", point.chosen_text, point.rejected_text || ""] : apart && apart.slice(1);
  });
  const told = texts.every(Boolean);
  const go = (by) => h("button", { type: "button", class: "chip", "aria-label": by < 0 ? "Previous pair" : "Next pair", onclick: () => pick(picked + by) }, by < 0 ? "←" : "→");
  const spoken = h("p", { class: "unseen", role: "status" });
  const attempt = invitation(host, data, "Switch the margin to log-probabilities per token, and see whose dots come to lie on their line.");
  const captions = { loss: h("span"), pull: h("span") };

  root.append(h("section", { class: "explorer losses", "aria-label": "Explorer: six preference losses on real pairs" },
    h("header", null,
      h("div", { class: "setting-of" }, h("span", null, "Margin of"), of.root, counted ? per.root : null),
      h("div", { class: "setting-of" }, h("span", null, "Height"), units.root)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "charts" },
      h("figure", null, h("figcaption", null, captions.loss), loss.svg),
      h("figure", null, h("figcaption", null, captions.pull), pull.svg)),
    table,
    h("div", { class: "sliders" }, controls.map((c) => c.root)),
    h("div", { class: "setting-of lengths" }, h("span", null, "IPO, SFT term of CPO"), lengths.root),
    h("div", { class: "card" }, h("div", { class: "card-head" }, card.title, h("span", { class: "buttons" }, go(-1), go(1))),
      told
        ? h("dl", { class: texts.flat().every((text) => text.length <= 56) ? "short" : null }, h("dt", { class: "prompt" }, "Prompt"), h("dd", { class: "one" }, card.prompt), h("dt", { class: "chosen" }, "Chosen"), h("dd", { class: "two" }, card.chosen), h("dt", { class: "rejected" }, "Rejected"), h("dd", { class: "two" }, card.rejected))
        : h("div", { class: "said-pair" }, card.name),
      h("div", { class: "sums" }, card.numbers)),
    h("footer", null, "Dots: the pairs. Lines: the picked pair, its chosen response made likelier and its rejected one less likely by the same amount. Where a method's dots lie on its line, it sees nothing but this margin. Chosen ↑, rejected ↓: how hard the gradient pulls each log-probability. KTO: its two responses together."),
    spoken));
  if (!whole) for (const [k, [key]] of METHODS.entries()) if (["orpo", "cpo", "simpo"].includes(key)) { rows[k].box.checked = false; rows[k].box.disabled = true; shown.delete(key); }
  if (!counted) settings.lengths = "paper";
  if (!whole) of.root.hidden = true;
  if (!counted) lengths.root.parentNode.hidden = true;

  function pick(k) {
    picked = (k + pairs.length) % pairs.length;
    update();
    clearTimeout(pick.telling);
    pick.telling = setTimeout(() => say(spoken, options[picked].getAttribute("aria-label")), 300);
  }

  function nearest(event, { chart, at }) {
    const box = chart.svg.getBoundingClientRect();
    let best = [Infinity, picked];
    for (const [x, y, k] of at) {
      const gap = Math.hypot(x - (event.clientX - box.left), y - (event.clientY - box.top));
      if (gap < best[0]) best = [gap, k];
    }
    return best;
  }
  for (const each of charts) {
    each.chart.svg.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "mouse") return;
      const [gap, k] = nearest(event, each);
      if (gap < 14 && k !== picked) pick(k);
    });
    each.chart.svg.addEventListener("click", (event) => pick(nearest(event, each)[1]));
  }
  // However little training moved the pairs, the axis is wide enough to show each loss's shape.
  const lengthOf = pairs.map((p) => stretch(p, { per: "token" })).filter(Number.isFinite);
  const meanLength = lengthOf.reduce((a, b) => a + b, 0) / lengthOf.length || 1;
  const SPAN = [-8, 12];
  const byMargin = () => pairs.map((p, k) => [margin(p, axis), k]).sort((a, b) => a[0] - b[0]).map(([, k]) => k);
  loss.svg.addEventListener("keydown", (event) => {
    const order = byMargin();
    const place = order.indexOf(picked);
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by) pick(order[(place + by + order.length) % order.length]);
    else if (event.key === "Home") pick(order[0]);
    else if (event.key === "End") pick(order[order.length - 1]);
    else return;
    event.preventDefault();
  });

  const steps = [0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];
  const nice = (x) => steps.find((step) => step >= x) || 2 ** Math.ceil(Math.log2(x));

  function update() {
    const began = performance.now();
    const me = pairs[picked];
    const domain = extent([...SPAN.map((x) => (axis.per === "token" ? x / meanLength : x)), ...pairs.map((p) => margin(p, axis)).filter(Number.isFinite)], 0.02);
    const here = margin(me, axis);
    const per = stretch(me, axis);
    const value = (result, what) => (what === "loss" ? result.loss : (result.up + result.down) / 2);
    const along = METHODS.map(([key]) => (x) => LOSSES[key](moved(me, (x - here) * per), settings));
    const zero = along.map((at) => at(0));
    const each = pairs.map((p) => METHODS.map(([key]) => LOSSES[key](p, settings)));
    for (const { chart, what, lines, head, groups, dots, at } of charts) {
      const divisor = METHODS.map((_, m) => (unit === "own" ? 1 : Math.abs(value(zero[m], what)) || 1));
      let most = 0;
      METHODS.forEach(([key], m) => {
        if (!shown.has(key)) return;
        const sorted = each.map((results) => Math.abs(value(results[m], what)) / divisor[m]).filter(Number.isFinite).sort((a, b) => a - b);
        most = Math.max(most, sorted[Math.floor(0.8 * (sorted.length - 1))] || 0, Math.abs(value(zero[m], what)) / divisor[m] || 0);
      });
      const high = nice(most * (unit === "own" ? 1.15 : 1.3) || 1);
      chart.frame({ x: domain, y: what === "loss" ? [0, high] : [-high / 4, high],
        xName: `margin of ${axis.of === "ratio" ? "log-ratios" : "log-probabilities"}, ${axis.per === "sum" ? "summed" : "per token"} (nats)` });
      METHODS.forEach(([key], m) => {
        const on = shown.has(key);
        lines[m].setAttribute("visibility", on ? "visible" : "hidden");
        if (!on) return;
        const points = [];
        for (let k = 0; k <= 110; k++) {
          const x = domain[0] + ((domain[1] - domain[0]) * k) / 110;
          points.push([chart.x(x), Math.max(-2000, Math.min(2000, chart.y(value(along[m](x), what) / divisor[m])))]);
        }
        lines[m].setAttribute("d", trace(points));
      });
      at.length = 0;
      pairs.forEach((p, k) => {
        const x = chart.x(margin(p, axis));
        METHODS.forEach(([key], m) => {
          const dot = dots[k][m];
          const y = chart.y(value(each[k][m], what) / divisor[m]);
          const on = shown.has(key) && Number.isFinite(x) && Number.isFinite(y);
          dot.setAttribute("visibility", on ? "visible" : "hidden");
          if (!on) return;
          const [cx, cy] = [x.toFixed(1), Math.max(-50, Math.min(400, y)).toFixed(1)];
          dot.setAttribute("cx", cx);
          dot.setAttribute("cy", cy);
          dot.setAttribute("r", k === picked ? 5 : 2.6);
          at.push([+cx, +cy, k]);
        });
        groups[k].setAttribute("class", k === picked ? "picked" : "");
        if (what === "loss") groups[k].setAttribute("aria-selected", String(k === picked));
      });
      if (chart.marks.lastChild !== groups[picked]) chart.marks.append(groups[picked]);
      const { t, b } = chart.area;
      const x = chart.x(here);
      for (const [name, v] of Object.entries({ x1: x, x2: x, y1: t, y2: b })) if (Number.isFinite(v)) head.setAttribute(name, v);
    }
    loss.svg.setAttribute("aria-activedescendant", options[picked].id);
    say(captions.loss, unit === "own" ? "Loss of each pair" : "Loss, divided by the line's value at margin 0");
    say(captions.pull, unit === "own" ? "Pull on the margin, −dL/dm per nat" : "Pull, divided by the line's value at margin 0");
    rows.forEach(({ root, cells }, m) => {
      const [key, , , sees, own] = METHODS[m];
      const one = each[picked][m];
      const home = own(settings);
      root.classList.toggle("off", !shown.has(key));
      root.classList.toggle("own", home !== null && home.of === axis.of && home.per === axis.per);
      say(cells.sees, sees(settings));
      say(cells.loss, brief(one.loss));
      say(cells.up, brief(one.up));
      say(cells.down, brief(one.down));
    });
    const { point } = me;
    say(card.title, `Pair ${picked + 1} of ${pairs.length}`);
    if (told) [card.prompt, card.chosen, card.rejected].forEach((node, k) => say(node, texts[picked][k]));
    else say(card.name, point.name || "");
    const length = (n) => (Number.isFinite(n) ? `, ${n} tokens` : "");
    say(card.numbers[0], `chosen: log-ratio ${fixed(me.c, 2)}${Number.isFinite(me.lw) ? `, log p ${fixed(me.lw, 1)}` : ""}${length(me.nw)}`);
    say(card.numbers[1], `rejected: log-ratio ${fixed(me.r, 2)}${Number.isFinite(me.ll) ? `, log p ${fixed(me.ll, 1)}` : ""}${length(me.nl)}`);
    say(card.numbers[2], `margin ${fixed(here, 2)} nats on this axis`);
    say(pullTitle, `Pull on the margin for ${METHODS.filter(([key]) => shown.has(key)).map(([key, name]) => `${name} ${brief(value(LOSSES[key](me, settings), "pull"))}`).join(", ")} at the picked pair.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, settings: { ...settings }, picked, each } }));
  }

  whenWide(loss.svg, update);
}

define("alignlab-preference_losses", preferenceLosses, { losses: LOSSES, margin, moved, stretch });
