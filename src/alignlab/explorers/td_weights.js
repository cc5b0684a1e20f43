// <alignlab-td_weights>: a real walk, its n-step returns, and the weights that n or lambda gives them.
//
// Data: {walk: {states (T + 1), rewards (T), values (S), truth (S)}, lambdas: [{lam, bias2, variance}], steps: [{n, bias2,
// variance}]}. The walk terminates with its last step. Moments are means over the states, exact, of the targets made from `values`.

/** The weight of the n-step return, n = 1 ... T, of which the last is the whole return. */
function lambdaWeights(lam, T) {
  const weights = Array.from({ length: T }, (_, k) => (1 - lam) * lam ** k);
  weights[T - 1] = lam ** (T - 1);
  return weights;
}

/** The returns of 1 ... T - t steps from time t. */
function nStepReturns(walk, t, gamma) {
  const T = walk.rewards.length;
  const found = [];
  let sum = 0;
  for (let n = 1; t + n <= T; n++) {
    sum += gamma ** (n - 1) * walk.rewards[t + n - 1];
    found.push(sum + (t + n < T ? gamma ** n * walk.values[walk.states[t + n]] : 0));
  }
  return found;
}

/** TD errors of every step; nothing follows the last one. */
function tdErrors(walk, gamma) {
  const T = walk.rewards.length;
  return walk.rewards.map((r, t) => r + (t + 1 < T ? gamma * walk.values[walk.states[t + 1]] : 0) - walk.values[walk.states[t]]);
}

/** Accumulating trace of one state after each step. */
function traceOf(walk, state, decay) {
  let e = 0;
  return walk.rewards.map((_, t) => (e = decay * e + (walk.states[t] === state ? 1 : 0)));
}

function tdWeights(host, root, data) {
  const walk = data.walk;
  const T = walk.rewards.length;
  const start = data.start || {};
  let kind = start.kind || "lambda";
  let lam = start.lam ?? 0.8;
  let n = start.n ?? 4;
  let gamma = start.gamma ?? 1;
  let t = start.t ?? 0;

  const lamSlider = slider({ label: "λ", values: range(0, 1, 0.01), value: lam, show: (v) => fixed(v, 2), speak: (v) => `lambda ${v}`, oninput: (v) => { lam = v; update(); } });
  const nSlider = slider({ label: "n", values: range(1, T, 1), value: n, show: String, speak: (v) => `${v} steps`, oninput: (v) => { n = v; update(); } });
  const gammaSlider = slider({ label: "γ", values: range(0.8, 1, 0.01), value: gamma, show: (v) => fixed(v, 2), speak: (v) => `gamma ${v}`, oninput: (v) => { gamma = v; update(); } });
  const tSlider = slider({ label: "Time t", values: range(0, T - 1, 1), value: t, show: String, speak: (v) => `time ${v}`, oninput: (v) => { t = v; update(); } });
  const pick = choice({ label: "Which mean of returns", options: [["lambda", "TD(λ)"], ["n", "n-step"]], value: kind, onchoose: (v) => { kind = v; update(); } });

  const bars = axes({ height: 190, left: 46, attributes: { role: "img" } });
  const returns = axes({ height: 190, left: 46, attributes: { role: "img" } });
  const back = axes({ height: 190, left: 46, attributes: { role: "img" } });
  const split = axes({ height: 190, left: 46, attributes: { role: "img" } });
  const titles = [bars, returns, back, split].map((chart) => { const node = s("title"); chart.svg.prepend(node); return node; });
  const columns = Array.from({ length: T }, () => s("rect", { class: "weight" }));
  bars.marks.append(...columns);
  const truthLine = s("line", { class: "truth" });
  const targetLine = s("line", { class: "target" });
  const dots = Array.from({ length: T }, () => s("circle", { class: "gain" }));
  returns.marks.append(truthLine, targetLine, ...dots);
  const trail = s("path", { class: "trace" });
  const now = s("line", { class: "now" });
  const errors = Array.from({ length: T }, () => s("line", { class: "delta" }));
  back.marks.append(...errors, trail, now);
  const lines = ["bias2", "variance", "sum"].map((name) => s("path", { class: `moment ${name}` }));
  const spots = ["bias2", "variance", "sum"].map((name) => s("circle", { class: `moment ${name}`, r: 4.5 }));
  split.marks.append(...lines);
  split.over.append(...spots);

  const tiles = { target: tile("Target", "from here"), truth: tile("True value", "of this state"), mean: tile("Mean horizon", "steps"), whole: tile("Weight of the whole return", "") };
  const attempt = invitation(host, data, "Set λ to 0, then raise it slowly: the weight spreads from the next step to the whole return.");
  const legend = (...items) => h("span", { class: "legend" }, items.map(([name, text]) => h("span", null, h("i", { class: `key ${name}` }), text)));
  const figure = (caption, keys, chart) => h("figure", null, h("figcaption", null, h("span", null, caption), legend(...keys)), chart.svg);
  root.append(h("section", { class: "explorer tdw", "aria-label": "Explorer: weights of n-step returns" },
    h("header", null, pick.root, h("div", { class: "where" }, tSlider.root)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "sliders" }, lamSlider.root, nSlider.root, gammaSlider.root),
    h("div", { class: "plots" },
      figure("Forward: weight of each n-step return", [["bar", "n steps"], ["whole", "whole return"]], bars),
      figure("The n-step returns of this walk from time t", [["target", "their weighted mean"], ["truth", "true value"]], returns),
      figure("Backward: this state’s trace, and the TD errors that it weighs", [["trace", "trace"], ["delta", "TD error"]], back),
      figure("One target from this table, mean over states, γ = 1", [["bias2", "bias²"], ["variance", "variance"], ["sum", "sum"]], split)),
    h("div", { class: "figures" }, Object.values(tiles).map((it) => it.root)),
    h("footer", null, `A real walk of ${T} steps over nineteen cells, and the table that TD(0) knew after ten walks. Bias and variance are exact; they are computed for γ = 1.`)));

  const put = (node, attributes) => { for (const [key, v] of Object.entries(attributes)) node.setAttribute(key, typeof v === "number" ? v.toFixed(1) : v); };
  const top = Math.max(...walk.truth.map(Math.abs), 1);
  const moments = { lambda: data.lambdas.map((row) => ({ at: row.lam, ...row })), n: data.steps.map((row) => ({ at: row.n, ...row })) };
  const highest = Math.max(...[...data.lambdas, ...data.steps].map((row) => row.bias2 + row.variance));

  function update() {
    const began = performance.now();
    const byLambda = kind === "lambda";
    lamSlider.root.classList.toggle("off", !byLambda);
    nSlider.root.classList.toggle("off", byLambda);
    const gains = nStepReturns(walk, t, gamma);
    const left = gains.length;
    const cut = Math.min(n, left);
    const weights = byLambda ? lambdaWeights(lam, left) : gains.map((_, k) => (k + 1 === cut ? 1 : 0));
    const target = gains.reduce((sum, gain, k) => sum + weights[k] * gain, 0);
    const truth = walk.truth[walk.states[t]];
    bars.frame({ x: [0.5, T + 0.5], y: [0, 1], xTicks: [1, ...ticks(1, T, 6).filter((v) => v > 1)], xName: "n" });
    const wide = Math.max(1, bars.x(2) - bars.x(1) - 2);
    columns.forEach((node, k) => {
      const w = k < left ? weights[k] : 0;
      put(node, { x: bars.x(k + 1) - wide / 2, width: wide, y: bars.y(w), height: Math.max(0, bars.y(0) - bars.y(w)), class: k === left - 1 ? "weight whole" : "weight" });
    });
    returns.frame({ x: [0.5, T + 0.5], y: [-1.08 * top, 1.08 * top], xTicks: [1, ...ticks(1, T, 6).filter((v) => v > 1)], xName: "n" });
    dots.forEach((node, k) => put(node, k < left ? { cx: returns.x(k + 1), cy: returns.y(gains[k]), r: 2.5 + 6 * Math.sqrt(weights[k]), visibility: "visible" } : { visibility: "hidden" }));
    for (const [node, v] of [[truthLine, truth], [targetLine, target]]) put(node, { x1: returns.x(0.5), x2: returns.x(T + 0.5), y1: returns.y(v), y2: returns.y(v) });
    const decay = byLambda ? gamma * lam : NaN;
    const trace_ = byLambda ? traceOf(walk, walk.states[t], decay) : walk.rewards.map((_, k) => (k >= t && k < t + n ? gamma ** (k - t) : 0));
    const deltas = tdErrors(walk, gamma);
    const high = 1.1 * Math.max(1.1, ...trace_);
    back.frame({ x: [-0.5, T - 0.5], y: [-1.1, high], xName: "time" });
    trail.setAttribute("d", trace(trace_.flatMap((e, k) => [[back.x(k - 0.5), back.y(e)], [back.x(k + 0.5), back.y(e)]])));
    errors.forEach((node, k) => put(node, { x1: back.x(k), x2: back.x(k), y1: back.y(0), y2: back.y(deltas[k]) }));
    put(now, { x1: back.x(t), x2: back.x(t), y1: back.y(-1.1), y2: back.y(high) });
    const rows = moments[kind];
    split.frame({ x: byLambda ? [0, 1] : [1, rows[rows.length - 1].at], y: [0, highest * 1.05], xTicks: byLambda ? [0, 0.2, 0.4, 0.6, 0.8, 1] : undefined, xName: byLambda ? "λ" : "n" });
    const part = [(row) => row.bias2, (row) => row.variance, (row) => row.bias2 + row.variance];
    const at = byLambda ? lam : n;
    const after = rows.findIndex((row) => row.at >= at - 1e-9);
    const hi = after < 0 ? rows[rows.length - 1] : rows[after];
    const lo = after > 0 ? rows[after - 1] : hi;
    const share = hi.at > lo.at ? Math.min(1, (at - lo.at) / (hi.at - lo.at)) : 1;
    const here = part.map((f) => f(lo) + share * (f(hi) - f(lo)));
    part.forEach((f, k) => {
      lines[k].setAttribute("d", trace(rows.map((row) => [split.x(row.at), split.y(f(row))])));
      put(spots[k], { cx: split.x(Math.min(at, rows[rows.length - 1].at)), cy: split.y(here[k]) });
    });
    const mean = weights.reduce((sum, w, k) => sum + w * (k + 1), 0);
    tiles.target.value(fixed(target, 3));
    tiles.truth.value(fixed(truth, 2));
    tiles.mean.value(brief(mean));
    tiles.whole.value(percent(weights[left - 1]));
    say(titles[0], `Weights of the returns of 1 to ${left} steps; the whole return has ${percent(weights[left - 1])}.`);
    say(titles[1], `The weighted mean of the returns is ${fixed(target, 3)}, the true value ${fixed(truth, 2)}.`);
    say(titles[2], `Trace of the state at time ${t}, and the TD error of every step.`);
    say(titles[3], `Squared bias ${brief(here[0])}, variance ${brief(here[1])}, sum ${brief(here[2])}.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, weights, gains, target, truth, trace: trace_, deltas, moments: here } }));
  }
  whenWide(root.querySelector(".explorer"), update);
}

define("alignlab-td_weights", tdWeights, { lambdaWeights, nStepReturns, tdErrors, traceOf });
