// <alignlab-policy_field>: the policy gradient of two places with two actions, as a field of arrows and as a cloud of samples.
//
// Data: {gamma, start: [2], rewards: [[stay, go], [stay, go]], places: [2 names], p: [2]}. "stay" stays, "go" leads to the other place.
// May be added: baseline ("none" or "value"), way ("plain" or "natural"). p holds the probabilities of "stay".

/** Everything exact about a policy: J, values, visits, what "stay" gains over "go", and two gradients by the logits of "stay". */
function solve({ start, rewards }, p, gamma) {
  const r = p.map((stay, s) => stay * rewards[s][0] + (1 - stay) * rewards[s][1]);
  const [a, b, c, d] = [1 - gamma * p[0], -gamma * (1 - p[0]), -gamma * (1 - p[1]), 1 - gamma * p[1]];
  const det = a * d - b * c;
  const V = [(d * r[0] - b * r[1]) / det, (a * r[1] - c * r[0]) / det];
  const visits = [(d * start[0] - c * start[1]) / det, (a * start[1] - b * start[0]) / det];
  const gain = [0, 1].map((s) => rewards[s][0] + gamma * V[s] - rewards[s][1] - gamma * V[1 - s]);
  return { J: start[0] * V[0] + start[1] * V[1], V, visits, gain, plain: [0, 1].map((s) => visits[s] * p[s] * (1 - p[s]) * gain[s]), natural: gain };
}

/**
 * REINFORCE's estimate from n episodes, less a baseline, and then the same without one: four numbers. An episode ends after each step with
 * probability 1 − gamma, and is not discounted besides.
 */
function estimate({ start, rewards }, p, gamma, n, baseline, random) {
  const g = [0, 0, 0, 0];
  const seen = [];
  for (let k = 0; k < n; k++) {
    let s = random() < start[0] ? 0 : 1;
    seen.length = 0;
    do {
      const stay = random() < p[s];
      seen.push(stay ? s : s + 2);
      if (!stay) s = 1 - s;
    } while (random() < gamma);
    let G = 0;
    for (let t = seen.length - 1; t >= 0; t--) {
      const at = seen[t] & 1;
      const go = seen[t] >> 1;
      const score = (1 - go - p[at]) / n;
      G += rewards[at][go];
      g[at] += score * (G - baseline[at]);
      g[at + 2] += score * G;
    }
  }
  return g;
}

/** The most that any policy gets: one of the four that toss no coin. */
const most = (data, gamma) => Math.max(...[[0, 0], [0, 1], [1, 0], [1, 1]].map((p) => solve(data, p, gamma).J));

/** Ascent by the exact gradient: points (p of both places) on the way, and the steps until J is 95% of the most. */
function climb(data, from, gamma, way, rate = 0.02, limit = 5000) {
  const goal = 0.95 * most(data, gamma);
  const theta = from.map((p) => Math.log(p / (1 - p)));
  const points = [];
  let steps = Infinity;
  for (let k = 0; k <= limit; k++) {
    const p = theta.map(sigmoid);
    const now = solve(data, p, gamma);
    if (k % 10 === 0 || k < 60) points.push(p);
    if (now.J >= goal) { steps = k; points.push(p); break; }
    for (const s of [0, 1]) theta[s] += rate * now[way][s];
  }
  return { points, steps };
}

const WAYS = { plain: "plain", natural: "natural" };
const SAMPLES = 120;
const LIMIT = 5000;

function policyField(host, root, data) {
  let p = [...data.p];
  let { gamma } = data;
  let way = data.way || "plain";
  let baseline = data.baseline || "none";
  let n = 4;
  let seed = 1;
  const [A, B] = data.places || ["A", "B"];
  const shares = range(0.02, 0.98, 0.01);

  const sliders = [0, 1].map((s) => slider({ label: `Stay in ${[A, B][s]}`, values: shares, value: p[s], show: (v) => v.toFixed(2), speak: (v) => `probability ${v.toFixed(2)}`, oninput: (v) => { p[s] = v; update(); } }));
  const gammas = slider({ label: "γ", values: [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95], value: gamma, show: (v) => v.toFixed(2), speak: (v) => `gamma ${v}`, oninput: (v) => { gamma = v; update(); } });
  const counts = slider({ label: "Episodes an estimate", values: [1, 2, 4, 8, 16], value: n, show: (v) => String(v), oninput: (v) => { n = v; update(); } });
  const ways = choice({ label: "Which gradient", options: [["plain", "Plain gradient"], ["natural", "Natural gradient"]], value: way, onchoose: (v) => { way = v; update(); } });
  const bases = choice({ label: "Baseline", options: [["none", "No baseline"], ["value", "Baseline V(s)"]], value: baseline, onchoose: (v) => { baseline = v; update(); } });
  const again = h("button", { type: "button", class: "chip", onclick: () => { seed += 1; update(); } }, "New episodes");
  const back = h("button", { type: "button", class: "chip", onclick: () => move(data.p) }, "Back to the start");
  const move = (to) => {
    p = to.map((v) => Math.min(0.98, Math.max(0.02, v)));
    sliders.forEach((it, s) => it.set(p[s]));
    p = sliders.map((it) => it.get());
    update();
  };

  const plane = axes({ height: 330, left: 56, attributes: { class: "plane field", role: "img" } });
  const planeTitle = s("title");
  const SIDE = 22;
  const heat = Array.from({ length: SIDE * SIDE }, () => s("rect", { class: "heat" }));
  const arrows = s("path", { class: "arrows" });
  const other = s("path", { class: "way rest" });
  const walked = s("path", { class: "way" });
  const here = s("circle", { class: "here", r: 6 });
  plane.svg.prepend(planeTitle);
  plane.marks.append(...heat, arrows, other, walked);
  plane.over.append(here);
  const at = (event) => {
    const box = plane.svg.getBoundingClientRect();
    const { l, r, t, b } = plane.area;
    const scale = plane.width / box.width;
    move([((event.clientX - box.left) * scale - l) / (r - l), (b - (event.clientY - box.top) * scale) / (b - t)]);
  };
  plane.svg.addEventListener("click", at);

  const cloud = axes({ height: 330, left: 46, attributes: { class: "plane", role: "img" } });
  const cloudTitle = s("title");
  const dots = Array.from({ length: SAMPLES }, () => s("circle", { class: "sample", r: 3 }));
  const exact = s("path", { class: "exact" });
  const mean = s("circle", { class: "mean", r: 6 });
  cloud.svg.prepend(cloudTitle);
  cloud.marks.append(...dots);
  cloud.over.append(exact, mean);

  const tiles = { J: tile("J", "expected return"), gain: tile("Steps to 95%", "of the best J"), spread: tile("Spread", "of one estimate"), right: tile("Uphill", "of them") };
  const verdict = h("p", { class: "verdict", role: "status" });
  const attempt = invitation(host, data, "Follow the plain gradient's path, then choose the natural one. Then add the baseline: the same episodes, a smaller cloud around the same cross.");
  const key = (name, text) => h("span", null, h("i", { class: `key ${name}` }), text);
  root.append(h("section", { class: "explorer pfield", "aria-label": "Explorer: a field of policy gradients" },
    h("header", null, ways.root, bases.root),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "charts" },
      h("figure", null, h("figcaption", null, h("span", null, "Where the gradient leads")), h("div", { class: "legend all" }, key("walked", "path of this gradient"), key("rest", "of the other")), plane.svg),
      h("figure", null, h("figcaption", null, h("span", null, `${SAMPLES} estimates from here`)), h("div", { class: "legend all" }, key("sample", "estimate"), key("cross", "exact"), key("ring", "their mean")), cloud.svg)),
    h("div", { class: "settings" }, ...sliders.map((it) => it.root), gammas.root, counts.root),
    h("div", { class: "buttons" }, again, back),
    h("div", { class: "figures" }, Object.values(tiles).map((it) => it.root)),
    verdict,
    h("footer", null, `Staying in ${A} pays ${data.rewards[0][0]}, in ${B} ${data.rewards[1][0]}; going pays ${data.rewards[0][1]}. ${Math.round(100 * data.start[0])}% of the episodes begin in ${A}. Arrows and paths are exact; shading is J. Estimates are REINFORCE on sampled episodes.`)));

  let painted = "";
  /** Shading of J: anew only where gamma or the width changed. */
  function paint() {
    const mark = `${gamma} ${plane.width}`;
    if (mark === painted) return;
    painted = mark;
    const values = heat.map((_, k) => solve(data, [((k % SIDE) + 0.5) / SIDE, (Math.floor(k / SIDE) + 0.5) / SIDE], gamma).J);
    const [low, high] = extent(values, 0);
    heat.forEach((rect, k) => {
      const [i, j] = [k % SIDE, Math.floor(k / SIDE)];
      const box = { x: plane.x(i / SIDE), y: plane.y((j + 1) / SIDE), width: plane.x(1 / SIDE) - plane.x(0), height: plane.y(0) - plane.y(1 / SIDE), "fill-opacity": 0.5 * ((values[k] - low) / (high - low)) };
      for (const [name, value] of Object.entries(box)) rect.setAttribute(name, value.toFixed(2));
    });
  }

  /** Arrows of the change of p, which is p (1 - p) times that of the logit; longer where it is larger, up to a limit. */
  function drawArrows() {
    const spots = range(0.05, 0.95, 0.09);
    const unit = 0.075;
    const found = spots.flatMap((x) => spots.map((y) => ({ x, y, g: solve(data, [x, y], gamma)[way].map((v, k) => v * [x * (1 - x), y * (1 - y)][k]) })));
    const sizes = found.map(({ g }) => Math.hypot(...g)).sort((a, b) => a - b);
    const middle = sizes[Math.floor(sizes.length / 2)];
    let d = "";
    for (const { x, y, g } of found) {
      const size = Math.hypot(...g) || 1e-12;
      const long = unit * (0.25 + 0.75 * (1 - Math.exp(-size / middle)));
      const [dx, dy] = [(plane.x(1) - plane.x(0)) * (g[0] / size) * long, (plane.y(1) - plane.y(0)) * (g[1] / size) * long];
      const [x0, y0] = [plane.x(x) - dx / 2, plane.y(y) - dy / 2];
      const [x1, y1] = [x0 + dx, y0 + dy];
      const angle = Math.atan2(dy, dx);
      const wing = (turn) => `M${x1.toFixed(1)} ${y1.toFixed(1)}L${(x1 - 5 * Math.cos(angle + turn)).toFixed(1)} ${(y1 - 5 * Math.sin(angle + turn)).toFixed(1)}`;
      d += `M${x0.toFixed(1)} ${y0.toFixed(1)}L${x1.toFixed(1)} ${y1.toFixed(1)}${wing(0.5)}${wing(-0.5)}`;
    }
    arrows.setAttribute("d", d);
  }

  function update() {
    const began = performance.now();
    const now = solve(data, p, gamma);
    const direction = now[way];
    plane.frame({ x: [0, 1], y: [0, 1], xName: `probability of staying in ${A}`, yName: `probability of staying in ${B}`, xTicks: [0, 0.25, 0.5, 0.75, 1], yTicks: [0, 0.25, 0.5, 0.75, 1], xText: String, yText: String });
    paint();
    drawArrows();
    const paths = Object.fromEntries(Object.keys(WAYS).map((name) => [name, climb(data, p, gamma, name)]));
    const line = ({ points }) => trace(points.map(([x, y]) => [plane.x(x), plane.y(y)]));
    walked.setAttribute("d", line(paths[way]));
    other.setAttribute("d", line(paths[way === "plain" ? "natural" : "plain"]));
    here.setAttribute("cx", plane.x(p[0]).toFixed(1));
    here.setAttribute("cy", plane.y(p[1]).toFixed(1));
    const count = (steps) => (steps <= LIMIT ? String(steps) : `over ${LIMIT}`);
    say(planeTitle, `Probability of staying: ${A} ${p[0].toFixed(2)}, ${B} ${p[1].toFixed(2)}. J ${brief(now.J)}. Plain gradient (${brief(now.plain[0])}, ${brief(now.plain[1])}), natural (${brief(now.natural[0])}, ${brief(now.natural[1])}).`);

    // The natural gradient divides by the Fisher information, visits times p (1 - p): the same factor for every estimate.
    const factor = [0, 1].map((k) => (way === "natural" ? 1 / (now.visits[k] * p[k] * (1 - p[k])) : 1));
    const random = mulberry32(1000 * seed + n);
    const drawn = dots.map(() => estimate(data, p, gamma, n, baseline === "value" ? now.V : [0, 0], random).map((g, k) => g * factor[k % 2]));
    const average = [0, 1].map((k) => drawn.reduce((sum, g) => sum + g[k], 0) / SAMPLES);
    const spread = Math.sqrt(drawn.reduce((sum, g) => sum + (g[0] - average[0]) ** 2 + (g[1] - average[1]) ** 2, 0) / (SAMPLES - 1));
    const uphill = drawn.filter((g) => g[0] * direction[0] + g[1] * direction[1] > 0).length / SAMPLES;
    // Axes that the baseline does not change: the same episodes without one decide.
    const rough = drawn.map((g) => [0, 1].map((k) => Math.abs(g[k + 2] - direction[k])));
    const reach = [0, 1].map((k) => Math.max(rough.map((g) => g[k]).sort((a, b) => a - b)[Math.floor(0.92 * SAMPLES)], 1e-6) * 1.15);
    cloud.frame({ x: [direction[0] - reach[0], direction[0] + reach[0]], y: [direction[1] - reach[1], direction[1] + reach[1]], xName: `estimate for the logit of ${A}`, yName: `for the logit of ${B}` });
    drawn.forEach((g, k) => {
      dots[k].setAttribute("cx", cloud.x(g[0]).toFixed(1));
      dots[k].setAttribute("cy", cloud.y(g[1]).toFixed(1));
    });
    const [x, y] = [cloud.x(direction[0]), cloud.y(direction[1])];
    exact.setAttribute("d", `M${(x - 9).toFixed(1)} ${y.toFixed(1)}h18M${x.toFixed(1)} ${(y - 9).toFixed(1)}v18`);
    const fine = average.every((v, k) => Math.abs(v - direction[k]) < reach[k]);
    mean.setAttribute("visibility", fine ? "visible" : "hidden");
    mean.setAttribute("cx", cloud.x(average[0]).toFixed(1));
    mean.setAttribute("cy", cloud.y(average[1]).toFixed(1));
    say(cloudTitle, `${SAMPLES} estimates of ${n} episodes each: mean (${brief(average[0])}, ${brief(average[1])}), exact (${brief(direction[0])}, ${brief(direction[1])}), spread ${brief(spread)}.`);

    tiles.J.value(brief(now.J));
    tiles.gain.value(count(paths[way].steps));
    tiles.spread.value(brief(spread));
    tiles.right.value(percent(uphill));
    const pull = now.gain[0] > 0 ? `In ${A} staying beats going by ${brief(now.gain[0])}` : `In ${A} going beats staying by ${brief(-now.gain[0])}`;
    say(verdict, `${pull}, in ${B} staying ${now.gain[1] > 0 ? "beats" : "loses to"} going by ${brief(Math.abs(now.gain[1]))}; visits ${brief(now.visits[0])} and ${brief(now.visits[1])}. At rate 0.02 the plain gradient needs ${count(paths.plain.steps)} steps to 95% of the best, the natural one ${count(paths.natural.steps)}.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, p: [...p], gamma, now, average, spread, uphill, paths } }));
  }

  whenWide(plane.svg, update);
}

define("alignlab-policy_field", policyField, { solve, estimate, climb, most, mulberry32 });
