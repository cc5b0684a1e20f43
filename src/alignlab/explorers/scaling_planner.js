// <alignlab-scaling_planner>: what a training run costs, what loss a scaling law predicts for it, and what would be better.
//
// Data: {laws: [{name, note, E, A, B, alpha, beta}], models: [{name, parameters, tokens, law?, hours?, chip?, note}],
// chips: [{name, peak, note}], runs: [[parameters, tokens, loss]], own: index of the law that was fitted to the runs}.
// peak: FLOP/s. hours: chip-hours as reported. May be added: start: {model, law, chip, served}.

/** L(N, D) = E + A / N^alpha + B / D^beta. */
const lawLoss = (law, n, d) => law.E + law.A / n ** law.alpha + law.B / d ** law.beta;

/** Parameters and tokens of least loss for a compute of 6 N D. */
function lawOptimal(law, flops) {
  const both = law.alpha + law.beta;
  const g = ((law.alpha * law.A) / (law.beta * law.B)) ** (1 / both);
  return [g * (flops / 6) ** (law.beta / both), (flops / 6) ** (law.alpha / both) / g];
}

/** The least compute that reaches a loss; Infinity at or below the floor. */
function leastCompute(law, loss) {
  if (loss <= law.E) return Infinity;
  const [n, d] = lawOptimal(law, 6);
  const gap = lawLoss(law, n, d) - law.E;
  return 6 * (gap / (loss - law.E)) ** ((law.alpha + law.beta) / (law.alpha * law.beta));
}

/** Tokens that N parameters need for a loss; Infinity where none are enough. */
function tokensFor(law, n, loss) {
  const left = loss - law.E - law.A / n ** law.alpha;
  return left > 0 ? (law.B / left) ** (1 / law.beta) : Infinity;
}

/** Parameters and tokens that reach a loss with the least 6 N D + 2 N served: golden section in log N. */
function lifetimeOptimum(law, loss, served) {
  let low = Math.log((law.A / (loss - law.E)) ** (1 / law.alpha)) + 1e-9;
  let high = low + 20;
  const cost = (x) => Math.exp(x) * (6 * tokensFor(law, Math.exp(x), loss) + 2 * served);
  const golden = (Math.sqrt(5) - 1) / 2;
  for (let i = 0; i < 120; i++) {
    const [left, right] = [high - golden * (high - low), low + golden * (high - low)];
    if (cost(left) < cost(right)) high = right;
    else low = left;
  }
  const n = Math.exp((low + high) / 2);
  return [n, tokensFor(law, n, loss)];
}

const UNITS = [[1e15, "Q"], [1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
/** 405000000000 -> "405B", with three figures; Q is 10^15. */
function short(x) {
  if (!Number.isFinite(x)) return "–";
  const [size, unit] = UNITS.find(([at]) => x >= at * 0.9995) || [1, ""];
  const v = x / size;
  return (v >= 9995 ? count(v) : `${+v.toPrecision(3)}`) + unit;
}
/** 3.79e25 -> "3.79 × 10²⁵". */
function ten(x) {
  const power = Math.floor(Math.log10(x) + 1e-9);
  const small = String(power).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[+c]));
  return `${(x / 10 ** power).toFixed(2)} × 10${small}`;
}
/** Seconds as a time that people say. */
function duration(seconds) {
  for (const [size, unit] of [[365.25 * 86400, "years"], [86400, "days"], [3600, "hours"], [60, "minutes"], [1, "seconds"]]) {
    if (seconds >= 2 * size) return [brief(seconds / size), unit];
  }
  return [seconds >= 0.001 ? brief(seconds) : "<0.001", "seconds"];
}
/** Dollars with three figures at most. */
const money = (x) => (x < 0.01 ? "<$0.01" : x < 100 ? `$${x.toFixed(2)}` : `$${short(x)}`);

function scalingPlanner(host, root, data) {
  const start = data.start || {};
  const first = data.models[start.model ?? 0];
  let law = data.laws[start.law ?? 0];
  let chip = data.chips[start.chip ?? 0];
  let [n, d, use, chips, price, served] = [first.parameters, first.tokens, 0.4, 1024, 2, start.served ?? 0];
  let model = first;

  const merged = (list, key) => [...new Set([...list, ...data.models.map((one) => one[key])])].sort((a, b) => a - b);
  const free = () => { model = null; picker.value = ""; };
  let held = true; // a slider moves along the line of equal compute
  const sizes = slider({ label: "Parameters", values: merged(powers(3, 13, 0.05), "parameters"), value: n, show: short, oninput: (v) => { if (held) tokens.set((d *= n / v)); n = v; free(); update(); } });
  const tokens = slider({ label: "Tokens", values: merged(powers(4, 14.5, 0.05), "tokens"), value: d, show: short, oninput: (v) => { if (held) sizes.set((n *= d / v)); d = v; free(); update(); } });
  const holder = h("button", { type: "button", class: "chip", "aria-pressed": "true", onclick: () => { held = !held; holder.setAttribute("aria-pressed", String(held)); } }, "Hold compute");
  const usage = slider({ label: "Utilization", note: "of the peak", values: range(0.1, 0.7, 0.01), value: use, show: (v) => `${Math.round(100 * v)}%`, oninput: (v) => { use = v; update(); } });
  const number = slider({ label: "Chips", values: Array.from({ length: 17 }, (_, k) => 2 ** k), value: chips, show: count, oninput: (v) => { chips = v; update(); } });
  const priced = slider({ label: "Price", note: "of a chip-hour", values: range(0.5, 6, 0.1), value: price, show: (v) => `$${v.toFixed(2)}`, oninput: (v) => { price = v; update(); } });
  const serving = slider({ label: "Tokens served", note: "in its life", values: [0, ...powers(8, 16, 0.25)], value: served, show: short, oninput: (v) => { served = v; update(); } });
  const laws = choice({ label: "Law", options: data.laws.map((one, k) => [k, one.name]), value: data.laws.indexOf(law), onchoose: (k) => {
    law = data.laws[k];
    const [xs, ys] = frames();
    const far = log(n) < xs[0] || log(n) > xs[1] || log(d) < ys[0] || log(d) > ys[1];
    if (far) { // the lab's models are a million times smaller than those of the papers
      const to = data.models.find((one) => (one.law === data.own) === (k === data.own));
      choose(to);
    } else update();
  } });
  const kinds = choice({ label: "Chip", options: data.chips.map((one, k) => [k, one.name]), value: data.chips.indexOf(chip), onchoose: (k) => { chip = data.chips[k]; update(); } });
  const pickId = `al-${++serial}`;
  const picker = h("select", { id: pickId, onchange: () => { const one = data.models[+picker.value]; if (picker.value !== "" && one) choose(one); } },
    h("option", { value: "" }, "my own"), data.models.map((one, k) => h("option", { value: k }, one.name)));

  function choose(one) {
    model = one;
    [n, d] = [one.parameters, one.tokens];
    if (one.law !== undefined && data.laws[one.law]) law = data.laws[one.law];
    else if (data.laws.indexOf(law) === data.own) law = data.laws[0];
    if (one.chip !== undefined) chip = data.chips[one.chip];
    laws.set(data.laws.indexOf(law));
    kinds.set(data.chips.indexOf(chip));
    sizes.set(n);
    tokens.set(d);
    picker.value = String(data.models.indexOf(one));
    update();
  }

  const valley = axes({ height: 290, left: 50, attributes: { role: "img", class: "valley" } });
  const plane = axes({ height: 290, left: 54, attributes: { role: "img", class: "plane" } });
  const [valleyTitle, planeTitle] = [s("title"), s("title")];
  valley.svg.prepend(valleyTitle);
  plane.svg.prepend(planeTitle);
  const lines = ["less", "more", "here"].map((name) => s("path", { class: `iso ${name}` }));
  const low = s("circle", { class: "best", r: 6 });
  const here = s("circle", { class: "own", r: 6.5 });
  valley.marks.append(...lines);
  valley.over.append(low, here);
  const [frontier, equal] = [s("path", { class: "frontier" }), s("path", { class: "iso here" })];
  const runs = s("g", { class: "runs" });
  const known = data.models.map(() => s("rect", { class: "known", width: 9, height: 9 }));
  const [best2, here2] = [s("circle", { class: "best", r: 6 }), s("circle", { class: "own", r: 6.5 })];
  plane.marks.append(frontier, equal, runs);
  plane.over.append(...known, best2, here2);
  plane.svg.addEventListener("click", (event) => {
    const box = plane.svg.getBoundingClientRect();
    const { l, r, t, b } = plane.area;
    const [x, y] = [(event.clientX - box.left - l) / (r - l), (b - (event.clientY - box.top)) / (b - t)];
    if (x < 0 || x > 1 || y < 0 || y > 1) return;
    const [xs, ys] = frames();
    sizes.set(10 ** (xs[0] + x * (xs[1] - xs[0])));
    tokens.set(10 ** (ys[0] + y * (ys[1] - ys[0])));
    [n, d] = [sizes.get(), tokens.get()];
    free();
    update();
  });

  const tiles = { flops: tile("Compute", "FLOPs"), time: tile("Time", ""), cost: tile("Price", ""), loss: tile("Predicted loss", "nats"), best: tile("Best size", ""), ratio: tile("Tokens a parameter", ""), spent: tile("Compute for this loss", ""), life: tile("Serving it", "") };
  const verdict = h("p", { class: "verdict", role: "status" });
  const source = h("p", { class: "verdict source" });
  const attempt = invitation(host, data, "With the compute held, move Gopher's parameters left until its loss is least: that is nearly Chinchilla. Then serve 10T tokens.");

  root.append(h("section", { class: "explorer planner", "aria-label": "Explorer: plan a training run by a scaling law" },
    h("header", null, laws.root, holder, h("div", { class: "pick" }, h("label", { for: pickId }, "Start from"), picker)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "settings" }, sizes.root, tokens.root),
    h("div", { class: "charts" },
      h("figure", null, h("figcaption", null, h("span", null, "Loss along the line of equal compute"), h("span", { class: "legend" }, h("span", null, h("i", { class: "key own" }), "this plan"), h("span", null, h("i", { class: "key best" }), "best"))), valley.svg),
      h("figure", null, h("figcaption", null, h("span", null, "Click to place a plan"), h("span", { class: "legend" }, h("span", null, h("i", { class: "key frontier" }), "best of each compute"), h("span", null, h("i", { class: "key known" }), "real models"))), plane.svg)),
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    verdict,
    h("div", { class: "settings three" }, h("div", null, kinds.root), usage.root, number.root, priced.root, serving.root),
    source,
    h("footer", null, "Compute is 6ND; serving costs 2N a token. A law holds for the data, tokenizer and architecture it was fitted to, and says nothing about what a loss is good for.")));

  /** Ranges of log N and log D: the papers' models, or the lab's. */
  const frames = () => (data.laws.indexOf(law) === data.own ? [[3, 6.5], [4, 8]] : [[7.5, 12.5], [9.5, 14]]);
  const log = Math.log10;

  function draw(flops, best, loss) {
    const own = data.laws.indexOf(law) === data.own;
    const [xs, ys] = frames();
    const middle = log(best[0]);
    const xName = "parameters (logarithmic)";
    const xText = (v) => short(10 ** v);
    const span = Math.max(1.25, Math.abs(log(n) - middle) + 0.15);
    const [left, right] = [middle - span, middle + span];
    const along = (c) => Array.from({ length: 81 }, (_, k) => left + (k * (right - left)) / 80).map((x) => [x, lawLoss(law, 10 ** x, c / (6 * 10 ** x))]);
    const curves = [along(flops / 10), along(flops * 10), along(flops)];
    const bottom = lawLoss(law, ...lawOptimal(law, flops * 10));
    const over = Math.max(lawLoss(law, ...lawOptimal(law, flops / 10)), loss);
    valley.frame({ x: [left, right], y: [bottom - 0.12 * (over - bottom), over + 0.35 * (over - bottom)], xTicks: ticks(left, right, 5).map((v) => Math.round(v * 2) / 2).filter((v, k, all) => all.indexOf(v) === k && v >= left && v <= right), xText, xName });
    lines.forEach((line, k) => line.setAttribute("d", trace(curves[k].map(([x, y]) => [valley.x(x), valley.y(y)]))));
    const place = (dot, chart, x, y) => { dot.setAttribute("cx", chart.x(x).toFixed(1)); dot.setAttribute("cy", chart.y(y).toFixed(1)); };
    const floor = lawLoss(law, ...best);
    place(low, valley, middle, floor);
    place(here, valley, log(n), loss);
    say(valleyTitle, `With ${ten(flops)} FLOPs: ${fixed(loss, 3)} nats at ${short(n)} parameters; the best, ${fixed(floor, 3)}, at ${short(best[0])}. Dashed: a tenth and ten times the compute.`);

    const whole = (from, to) => Array.from({ length: Math.floor(to) - Math.ceil(from) + 1 }, (_, k) => Math.ceil(from) + k);
    plane.frame({ x: xs, y: ys, xTicks: whole(...xs), yTicks: whole(...ys), xText, yText: xText, xName, yName: "tokens" });
    const budgets = Array.from({ length: 60 }, (_, k) => log(6) + xs[0] + ys[0] - 1 + (k * (xs[1] + ys[1] - xs[0] - ys[0] + 2)) / 59);
    frontier.setAttribute("d", trace(budgets.map((c) => lawOptimal(law, 10 ** c)).map(([a, b]) => [plane.x(log(a)), plane.y(log(b))])));
    equal.setAttribute("d", trace(xs.map((x) => [plane.x(x), plane.y(log(flops / 6) - x)])));
    runs.replaceChildren(...(own ? data.runs.map(([a, b, y]) => s("circle", { class: "run", r: 3, cx: plane.x(log(a)).toFixed(1), cy: plane.y(log(b)).toFixed(1) }, s("title", null, `measured: ${short(a)} parameters, ${short(b)} tokens, ${fixed(y, 3)} nats`))) : []));
    known.forEach((mark, k) => {
      const one = data.models[k];
      const seen = (one.law === data.own) === own;
      mark.setAttribute("visibility", seen ? "visible" : "hidden");
      mark.setAttribute("x", (plane.x(log(one.parameters)) - 4.5).toFixed(1));
      mark.setAttribute("y", (plane.y(log(one.tokens)) - 4.5).toFixed(1));
      mark.replaceChildren(s("title", null, one.name));
    });
    const inside = log(n) >= xs[0] && log(n) <= xs[1] && log(d) >= ys[0] && log(d) <= ys[1];
    here2.setAttribute("visibility", inside ? "visible" : "hidden");
    place(here2, plane, log(n), log(d));
    const sound = middle >= xs[0] && middle <= xs[1] && log(best[1]) >= ys[0] && log(best[1]) <= ys[1];
    best2.setAttribute("visibility", sound ? "visible" : "hidden");
    place(best2, plane, middle, log(best[1]));
    say(planeTitle, `Parameters and tokens, both logarithmic. This plan: ${short(n)} and ${short(d)}. Best for its compute: ${short(best[0])} and ${short(best[1])}.`);
  }

  function update() {
    const began = performance.now();
    const flops = 6 * n * d;
    const best = lawOptimal(law, flops);
    const loss = lawLoss(law, n, d);
    const least = leastCompute(law, loss);
    const hours = flops / (chip.peak * use) / 3600;
    const life = lifetimeOptimum(law, loss, served);
    draw(flops, best, loss);
    tiles.flops.value(ten(flops));
    tiles.flops.note(`${flops < 8.64e16 ? ten(flops / 8.64e19) : flops < 8.64e22 ? brief(flops / 8.64e19) : count(flops / 8.64e19)} PF-days`);
    const [amount, unit] = duration((hours * 3600) / chips);
    tiles.time.value(amount);
    tiles.time.note(`${unit} on ${count(chips)} ${chip.name}`);
    tiles.cost.value(money(hours * price));
    tiles.cost.note(`${hours < 0.01 ? "<0.01" : short(hours)} chip-hours`);
    tiles.loss.value(fixed(loss, 3));
    tiles.loss.note(`best here ${fixed(lawLoss(law, ...best), 3)}`);
    tiles.best.value(short(best[0]));
    tiles.best.note(`on ${short(best[1])} tokens`);
    tiles.ratio.value(brief(d / n));
    tiles.ratio.note(`best here ${brief(best[1] / best[0])}`);
    tiles.spent.value(`${brief(flops / least)} ×`);
    tiles.spent.note(`of the least, ${ten(least)}`);
    tiles.life.value(served ? percent((2 * n * served) / (flops + 2 * n * served)) : "0%");
    tiles.life.note(`of all; best ${short(life[0])} on ${short(life[1])}`);
    const side = Math.abs(Math.log(n / best[0])) < 0.1 ? "about right" : n > best[0] ? "too large for its tokens" : "small and long trained";
    say(verdict, `By the law “${law.name}”, this model is ${side}: the same loss could be had for ${percent(least / flops)} of its training compute, with ${short(lawOptimal(law, least)[0])} parameters.${served ? ` Counting ${short(served)} tokens served, ${short(life[0])} would be cheapest.` : ""}`);
    const told = model && model.hours ? ` Reported: ${short(model.hours)} chip-hours; 6ND in that time is ${percent(flops / (model.hours * 3600 * chip.peak))} of the peak.` : "";
    say(source, `${model ? `${model.name}: ${model.note}.` : law.note + "."}${told} ${chip.name}: ${chip.note}.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, flops, best, loss, least, hours, life, n, d, law: law.name } }));
  }

  picker.value = String(data.models.indexOf(first));
  whenWide(valley.svg, update);
}

define("alignlab-scaling_planner", scalingPlanner, { lawLoss, lawOptimal, leastCompute, tokensFor, lifetimeOptimum, short, ten, duration });
