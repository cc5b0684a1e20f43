// <alignlab-return_distribution>: what agents believe of the return while they train, beside its exact distribution.
//
// Data: {map, low, high, atoms, steps, places: [{name, cell, actions: [{name, exact: {values, probs}, C51: [[...]], "QR-DQN":
// [[...]], DQN: [...]}]}]}: for each of `steps` (updates) C51's probabilities of its atoms, evenly spaced from low to high,
// QR-DQN's quantiles, DQN's one number. May be added: start: {place, action, agent, step, share}.

/** What an agent believes after the k-th of the steps: {values, probs}, ascending. */
function belief(data, action, agent, k) {
  const out = action[agent][k];
  if (agent === "DQN") return { values: [out], probs: [1] };
  if (agent === "C51") {
    const sum = out.reduce((a, b) => a + b, 0);
    return { values: out.map((_, i) => data.low + ((data.high - data.low) * i) / (out.length - 1)), probs: out.map((p) => p / sum) };
  }
  return { values: [...out].sort((a, b) => a - b), probs: out.map(() => 1 / out.length) };
}

const mean = ({ values, probs }) => values.reduce((sum, v, i) => sum + v * probs[i], 0) / probs.reduce((a, b) => a + b, 0);

/** P(G <= x). */
const cdf = ({ values, probs }, x) => values.reduce((sum, v, i) => (v <= x ? sum + probs[i] : sum), 0);

/** The mean of the worst `share` of the returns. */
function cvar({ values, probs }, share) {
  let [left, sum] = [share, 0];
  for (let i = 0; i < values.length && left > 1e-12; i++) {
    const part = Math.min(left, probs[i]);
    sum += part * values[i];
    left -= part;
  }
  return sum / (share - left);
}

/** The area between two cumulative distributions. */
function wasserstein(a, b) {
  const points = [...a.values, ...b.values].sort((x, y) => x - y);
  let area = 0;
  for (let i = 1; i < points.length; i++) if (points[i] > points[i - 1]) area += Math.abs(cdf(a, points[i - 1]) - cdf(b, points[i - 1])) * (points[i] - points[i - 1]);
  return area;
}

/** Probability in bins around evenly spaced centres; what lies beyond goes into the outermost. */
function binned(one, low, high, bins) {
  const out = new Array(bins).fill(0);
  one.values.forEach((v, i) => {
    const place = Math.round(((v - low) / (high - low)) * (bins - 1));
    out[Math.max(0, Math.min(bins - 1, place))] += one.probs[i];
  });
  return out;
}

function returnDistribution(host, root, data) {
  const start = data.start || {};
  const agents = ["DQN", "C51", "QR-DQN"];
  let place = data.places[start.place || 0];
  let action = place.actions[start.action || 0];
  let agent = agents.includes(start.agent) ? start.agent : "C51";
  let at = Math.max(0, data.steps.indexOf(start.step ?? data.steps[data.steps.length - 1]));
  let share = start.share ?? 0.1;
  let view = "bars";
  const BINS = data.atoms;
  const [low, high] = [data.low - (data.high - data.low) / 50, data.high + (data.high - data.low) / 50];

  const placeId = `al-place-${++serial}`;
  const select = h("select", { id: placeId, onchange: () => { place = data.places[+select.value]; action = place.actions[0]; offer(); update(); } },
    data.places.map((one, k) => h("option", { value: k, selected: one === place }, one.name)));
  const actionHost = h("div", { class: "acts" });
  const offer = () => actionHost.replaceChildren(choice({ label: "Action", options: place.actions.map((one, k) => [k, one.name]), value: place.actions.indexOf(action), onchoose: (k) => { action = place.actions[k]; update(); } }).root);
  const agentChoice = choice({ label: "Agent", options: agents.map((one) => [one, one]), value: agent, onchoose: (one) => { agent = one; update(); } });
  const viewChoice = choice({ label: "How it is drawn", options: [["bars", "bars"], ["sum", "cumulative"]], value: view, onchoose: (one) => { view = one; update(); } });
  const stepSlider = slider({ label: "Updates", note: "training", values: data.steps, value: data.steps[at], show: count, oninput: (v) => { at = data.steps.indexOf(v); update(); } });
  const shareSlider = slider({ label: "Worst share", note: "risk", values: [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1], value: share, show: (v) => `${Math.round(100 * v)}%`, oninput: (v) => { share = v; update(); } });

  const side = 26;
  const rows = data.map.length;
  const columns = data.map[0].length;
  const here = s("circle", { class: "here", r: 8 });
  const world = s("svg", { class: "world", viewBox: `-1 -1 ${columns * side + 2} ${rows * side + 2}`, height: rows * side, role: "img" },
    s("title", null, "The world: S start, G goal, X pit, dark cells walls; the dot is where the agent stands"),
    ...data.map.flatMap((line, i) => [...line].flatMap((kind, j) => [
      s("rect", { class: { "#": "wall", G: "goal", X: "pit" }[kind] || "free", x: j * side, y: i * side, width: side, height: side }),
      "SGX".includes(kind) ? s("text", { x: (j + 0.5) * side, y: (i + 0.5) * side + 4, "text-anchor": "middle" }, kind) : null])), here);

  const chart = axes({ height: 300, left: 46, attributes: { role: "img", class: "returns" } });
  const title = s("title");
  const bars = Array.from({ length: BINS }, () => s("rect", { class: "believed" }));
  const outline = s("path", { class: "truth" });
  const line = s("path", { class: "believed-line" });
  const marks = { believed: s("line", { class: "mean believed" }), truth: s("line", { class: "mean truth" }), risk: s("line", { class: "mean risk" }) };
  chart.svg.prepend(title);
  chart.marks.append(...bars, outline, line, ...Object.values(marks));

  const tiles = { mean: tile("Mean", "return"), risk: tile("Mean of the worst", "return"), loss: tile("P(return < 0)", ""), gap: tile("W1 to the truth", "return") };
  const verdict = h("p", { class: "verdict", role: "status" });
  const attempt = invitation(host, data, "Compare the two actions, first by the mean, then by the worst 10%. Then set the agent to DQN.");
  const legend = (...items) => h("div", { class: "legend all" }, items.map(([name, text]) => h("span", null, h("i", { class: `key ${name}` }), text)));

  root.append(h("section", { class: "explorer zed", "aria-label": "Explorer: the distribution of the return" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: placeId }, "Where"), select), actionHost, agentChoice.root, viewChoice.root),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "knobs" }, stepSlider.root, shareSlider.root),
    legend(["believed", "what the agent believes"], ["truth", "exact distribution"], ["mean-key", "means"], ["risk", "mean of the agent's worst share"]),
    h("div", { class: "view" }, h("figure", null, chart.svg), h("div", { class: "aside" }, world)),
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    verdict,
    h("footer", null, "One of five seeds of the lab. The exact distribution belongs to the optimal policy, and is computed from the tables of the world.")));

  const put = (node, values) => { for (const [key, v] of Object.entries(values)) node.setAttribute(key, typeof v === "number" ? v.toFixed(1) : v); };
  const chosenBy = (score, of) => place.actions.reduce((best, one) => (score(of(one)) > score(of(best)) ? one : best), place.actions[0]).name;

  function update() {
    const began = performance.now();
    const now = belief(data, action, agent, at);
    const truth = action.exact;
    const [mine, its] = [binned(now, data.low, data.high, BINS), binned(truth, data.low, data.high, BINS)];
    const top = view === "sum" ? 1.04 : Math.min(1.04, 1.15 * Math.max(...its, ...mine));
    chart.frame({ x: [low, high], y: [0, top], xName: "return", yName: view === "sum" ? "P(G ≤ x)" : "probability" });
    const half = (data.high - data.low) / (BINS - 1) / 2;
    const centre = (i) => data.low + ((data.high - data.low) * i) / (BINS - 1);
    bars.forEach((bar, i) => {
      const [x0, x1] = [chart.x(centre(i) - 0.86 * half), chart.x(centre(i) + 0.86 * half)];
      put(bar, { x: x0, width: Math.max(0, x1 - x0), y: chart.y(mine[i]), height: Math.max(0, chart.y(0) - chart.y(mine[i])), visibility: view === "bars" ? "visible" : "hidden" });
    });
    const stairs = (one) => {
      const points = [[low, 0]];
      let sum = 0;
      one.values.forEach((v, i) => { points.push([v, sum]); sum += one.probs[i]; points.push([v, sum]); });
      return trace([...points, [high, sum]].map(([x, y]) => [chart.x(x), chart.y(y)]));
    };
    const skyline = (heights) => trace(heights.flatMap((p, i) => [[centre(i) - half, p], [centre(i) + half, p]]).map(([x, y]) => [chart.x(x), chart.y(y)]));
    outline.setAttribute("d", view === "sum" ? stairs(truth) : skyline(its));
    line.setAttribute("d", view === "sum" ? stairs(now) : "");
    const { t, b } = chart.area;
    const risk = cvar(now, share);
    for (const [name, value] of [["believed", mean(now)], ["truth", mean(truth)], ["risk", risk]]) put(marks[name], { x1: chart.x(value), x2: chart.x(value), y1: t, y2: b });
    put(here, { cx: (place.cell[1] + 0.5) * side, cy: (place.cell[0] + 0.5) * side });
    const gap = wasserstein(now, truth);
    const negative = (one) => one.values.reduce((sum, v, i) => (v < 0 ? sum + one.probs[i] : sum), 0);
    tiles.mean.value(fixed(mean(now), 2));
    tiles.mean.note(`exact ${fixed(mean(truth), 2)}`);
    tiles.risk.value(fixed(risk, 2));
    tiles.risk.note(`exact ${fixed(cvar(truth, share), 2)}`);
    tiles.loss.value(percent(negative(now)));
    tiles.loss.note(`exact ${percent(negative(truth))}`);
    tiles.gap.value(fixed(gap, 3));
    tiles.gap.note("0 is the truth itself");
    const one = (x) => belief(data, x, agent, at);
    const exact = (x) => x.exact;
    const worst = `the worst ${Math.round(100 * share)}%`;
    say(verdict, `By the mean, ${agent} takes “${chosenBy(mean, one)}”; by ${worst}, “${chosenBy((z) => cvar(z, share), one)}”. The exact distributions say “${chosenBy(mean, exact)}” and “${chosenBy((z) => cvar(z, share), exact)}”.`);
    say(title, `${place.name}, ${action.name}, ${agent} after ${count(data.steps[at])} updates: mean ${fixed(mean(now), 2)}, exactly ${fixed(mean(truth), 2)}; distance ${fixed(gap, 3)}.`);
    host.dataset.ms = (performance.now() - began).toFixed(1);
  }

  offer();
  whenWide(chart.svg, update);
}

define("alignlab-return_distribution", returnDistribution, { belief, cdf, cvar, mean, wasserstein });
