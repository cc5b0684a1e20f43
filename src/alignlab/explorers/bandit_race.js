// <alignlab-bandit_race>: epsilon-greedy, UCB and Thompson sampling on the same arms with the same luck, played in the page.
//
// Data: {worlds: [{title, names, means, slope, ticks, epsilon: [{at, regret}], c: [{at, regret}], thompson: regret}], games}:
// regrets are means of `games` games of the library at the pulls `ticks`. May be added: start: {world, epsilon, c, pulls, seed}.

/** All probability on the highest index, shared equally among equals; written over the index. */
function bestOf(index) {
  let top = -Infinity;
  let many = 0;
  for (let k = 0; k < index.length; k++) {
    if (index[k] > top) many = 0;
    if (index[k] >= top) {
      top = index[k];
      many += 1;
    }
  }
  for (let k = 0; k < index.length; k++) index[k] = index[k] === top ? 1 / many : 0;
  return index;
}

/** A list of value(k), as fast as it goes: a game asks for thousands. */
function listed(length, value) {
  const found = new Array(length);
  for (let k = 0; k < length; k++) found[k] = value(k);
  return found;
}

/** Probabilities of the arms: epsilon on all of them, the rest on the best average (0 for an arm never pulled). */
function epsilonGreedy(counts, sums, t, epsilon) {
  const best = bestOf(listed(counts.length, (k) => (counts[k] ? sums[k] / counts[k] : 0)));
  return listed(best.length, (k) => epsilon / best.length + (1 - epsilon) * best[k]);
}

/** Average plus sqrt(c log t / pulls); infinite for an arm never pulled. */
function ucbIndex(counts, sums, t, c) {
  const grows = c * Math.log(Math.max(t, 1));
  return listed(counts.length, (k) => (counts[k] ? sums[k] / counts[k] + Math.sqrt(grows / counts[k]) : Infinity));
}
const ucb = (counts, sums, t, c) => bestOf(ucbIndex(counts, sums, t, c));

/** A draw from Gamma(shape, 1), shape at least 1: Marsaglia and Tsang (2000). */
function gamma(random, shape) {
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const v = (1 + c * x) ** 3;
    const u = 1 - random();
    if (v > 0 && (u < 1 - 0.0331 * x ** 4 || Math.log(u) < 0.5 * x * x + d - d * v + d * Math.log(v))) return d * v;
  }
}

/** A draw from Beta(a, b). */
function beta(random, a, b) {
  const x = gamma(random, a);
  return x / (x + gamma(random, b));
}

const thompson = (counts, sums, t, knob, random) => bestOf(listed(counts.length, (k) => beta(random, 1 + sums[k], 1 + counts[k] - sums[k])));

const RULES = { epsilon: epsilonGreedy, c: ucb, thompson };

/** One game: the arm of each pull, what it paid, and regret so far. At a pull one draw decides, whichever arm is pulled. */
function game(means, rule, knob, pulls, seed) {
  const [luck, random] = [mulberry32(seed), mulberry32(seed + 7919)];
  const top = Math.max(...means);
  const [counts, sums] = [means.map(() => 0), means.map(() => 0)];
  const [actions, paid, regret] = [new Int8Array(pulls), new Int8Array(pulls), new Float64Array(pulls)];
  for (let t = 0; t < pulls; t++) {
    const chances = RULES[rule](counts, sums, t, knob, random);
    let left = random();
    let arm = 0;
    while (arm < means.length - 1 && left >= chances[arm]) left -= chances[arm++];
    while (!chances[arm]) arm -= 1; // rounding must not pull an arm of probability 0
    const reward = luck() < means[arm] ? 1 : 0;
    counts[arm] += 1;
    sums[arm] += reward;
    actions[t] = arm;
    paid[t] = reward;
    regret[t] = (t ? regret[t - 1] : 0) + top - means[arm];
  }
  return { actions, paid, regret };
}

const log10 = (x) => Math.log10(Math.max(1e-9, x));

function banditRace(host, root, data) {
  const start = data.start || {};
  const worlds = data.worlds;
  const pullsOf = (world) => world.ticks[world.ticks.length - 1];
  let world = worlds[start.world || 0];
  const knobs = { epsilon: start.epsilon ?? 0.1, c: start.c ?? 2, thompson: 0 };
  let seed = start.seed ?? 1;
  let at = start.pulls ?? 200;
  let timer = null;
  const steps = [1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100, 130, 160, 200, 250, 300, 400, 500, 600, 800, 1000].filter((n) => n <= pullsOf(world));

  const worldId = `al-world-${++serial}`;
  const select = h("select", { id: worldId, onchange: () => { world = worlds[+select.value]; update(); } }, worlds.map((one, k) => h("option", { value: k, selected: one === world }, one.title)));
  const grid = (key) => worlds[0][key].map((one) => one.at);
  const sliders = {
    epsilon: slider({ label: "ε of ε-greedy", values: grid("epsilon"), value: knobs.epsilon, show: String, speak: (v) => `epsilon ${v}`, oninput: (v) => { knobs.epsilon = v; update(); } }),
    c: slider({ label: "c of UCB", values: grid("c"), value: knobs.c, show: String, speak: (v) => `c ${v}`, oninput: (v) => { knobs.c = v; update(); } }),
    pulls: slider({ label: "Pulls so far", values: steps, value: at, show: count, oninput: (v) => { at = v; update(); } }),
    seed: slider({ label: "Luck", note: "another game", values: range(1, 40, 1), value: seed, show: (v) => `№ ${v}`, speak: (v) => `game ${v}`, oninput: (v) => { seed = v; update(); } }),
  };
  knobs.epsilon = sliders.epsilon.get();
  knobs.c = sliders.c.get();
  at = sliders.pulls.get();
  const play = h("button", { type: "button", class: "action", onclick: () => (timer ? stop() : run()) }, "Play");
  const stop = () => { clearInterval(timer); timer = null; say(play, "Play"); };
  const run = () => {
    let place = steps.indexOf(at) === steps.length - 1 ? 0 : steps.indexOf(at);
    say(play, "Pause");
    timer = setInterval(() => {
      if (!host.isConnected || place >= steps.length - 1) return stop();
      at = steps[++place];
      sliders.pulls.set(at);
      return update();
    }, 220);
  };
  const scale = choice({ label: "Scale of the pulls", options: [["log", "log T"], ["plain", "T"]], value: "log", onchoose: (v) => { warped = v; update(); } });
  let warped = "log";

  const players = [["epsilon", "ε-greedy"], ["c", "UCB"], ["thompson", "Thompson"]].map(([key, title]) => ({
    key, title, mean: s("path", { class: `mean-line ${key}` }), line: s("path", { class: `line ${key}` }), dot: s("circle", { class: key, r: 5.5 }),
    tile: tile(title, "lost"), arms: s("svg", { class: `arms ${key}`, height: 226, role: "img" }), kept: {},
  }));
  const chart = axes({ height: 300, left: 44, attributes: { role: "img", class: "race" } });
  const title = s("title");
  const bound = s("path", { class: "bound" });
  chart.svg.prepend(title);
  chart.marks.append(bound, ...players.flatMap((p) => [p.mean, p.line]));
  chart.over.append(...players.map((p) => p.dot));
  const verdict = h("p", { class: "verdict", role: "status" });
  const attempt = invitation(host, data, "Set ε to 0 and change the luck a few times: in some games it never finds the best arm.");

  root.append(h("section", { class: "explorer bandits", "aria-label": "Explorer: the bandit race" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: worldId }, "Arms"), select), scale.root),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "knobs" }, sliders.epsilon.root, sliders.c.root, sliders.seed.root),
    h("figure", null,
      h("figcaption", null, h("span", null, "Regret: right answers lost"), h("span", { class: "legend" },
        players.map((p) => h("span", null, h("i", { class: `key ${p.key}` }), p.title)), h("span", null, h("i", { class: "key mean-line" }), `mean of ${data.games} games`), h("span", null, h("i", { class: "key bound" }), "Lai–Robbins slope"))),
      chart.svg),
    h("div", { class: "walk" }, sliders.pulls.root, play),
    h("div", { class: "figures" }, players.map((p) => p.tile.root)),
    h("div", { class: "players" }, players.map((p) => h("figure", null, h("figcaption", null, h("span", null, p.title)), p.arms))),
    verdict,
    h("footer", null, "Bars: share of its pulls. Dot: the average that it knows; line to the right: how far it hopes (UCB's width, two standard deviations of Thompson's belief). Upright mark: the true chance. Same luck for all three.")));

  /** The game of a player under its knob; kept until something about it changes. */
  function played(p) {
    const key = [worlds.indexOf(world), p.key === "thompson" ? 0 : knobs[p.key], seed].join();
    if (p.kept.key !== key) p.kept = { key, ...game(world.means, p.key, knobs[p.key], pullsOf(world), seed) };
    return p.kept;
  }

  const meanOf = (p) => (p.key === "thompson" ? world.thompson : world[p.key].find((one) => one.at === knobs[p.key]).regret);

  /** What a player knows after `at` pulls. */
  function known(p) {
    const { actions, paid } = p.kept;
    const [counts, sums] = [world.means.map(() => 0), world.means.map(() => 0)];
    for (let t = 0; t < at; t++) {
      counts[actions[t]] += 1;
      sums[actions[t]] += paid[t];
    }
    const hope = p.key === "c" ? ucbIndex(counts, sums, at, knobs.c) : p.key === "thompson" ? counts.map((n, k) => {
      const [a, b] = [1 + sums[k], 1 + n - sums[k]];
      return a / (a + b) + 2 * Math.sqrt((a * b) / ((a + b) ** 2 * (a + b + 1)));
    }) : counts.map(() => NaN);
    return { counts, sums, hope };
  }

  /** The marks of a player's arms, made once for a world and a width; what a game changes is set on them. */
  function armsOf(p) {
    const wide = p.arms.getBoundingClientRect().width || 280;
    const key = [worlds.indexOf(world), wide].join();
    if (p.drawn?.key === key) return p.drawn;
    const [left, right, high] = [92, wide - 40, 226];
    const row = (high - 4) / world.means.length;
    const pad = Math.max(row * 0.2, (row - 26) / 2);
    const x = (v) => left + Math.max(0, Math.min(1, v)) * (right - left);
    const best = world.means.indexOf(Math.max(...world.means));
    const title = s("title");
    const rows = world.means.map((mean, k) => {
      const y = 4 + row * k;
      const middle = y + row / 2;
      return {
        lane: s("rect", { class: "lane-line", x: left, y: y + pad, width: right - left, height: row - 2 * pad }),
        share: s("rect", { class: "share", x: left, y: y + pad, width: 0, height: row - 2 * pad }),
        name: s("text", { x: left - 6, y: middle + 4, "text-anchor": "end", class: k === best ? "best" : "" }, world.names[k]),
        pulls: s("text", { x: wide, y: middle + 4, "text-anchor": "end" }),
        truth: s("line", { class: "truth", x1: x(mean), x2: x(mean), y1: y + pad - 4, y2: y + row - pad + 4 }),
        hope: s("line", { class: "hope", y1: middle, y2: middle }),
        dot: s("circle", { cy: middle, r: 3.6, class: p.key }),
      };
    });
    p.arms.setAttribute("viewBox", `0 0 ${wide} ${high}`);
    p.arms.replaceChildren(title, ...rows.flatMap((one) => Object.values(one)));
    p.drawn = { key, x, left, title, rows };
    return p.drawn;
  }

  function drawArms(p, { counts, sums, hope }) {
    const { x, left, title, rows } = armsOf(p);
    rows.forEach((one, k) => {
      const average = counts[k] ? sums[k] / counts[k] : NaN;
      const to = Math.min(1, hope[k]);
      const seen = Number.isFinite(average);
      one.share.setAttribute("width", Math.max(0, x(counts[k] / at) - left).toFixed(1));
      say(one.pulls, count(counts[k]));
      one.dot.setAttribute("visibility", seen ? "visible" : "hidden");
      one.hope.setAttribute("visibility", seen && Number.isFinite(to) ? "visible" : "hidden");
      if (!seen) return;
      one.dot.setAttribute("cx", x(average).toFixed(1));
      if (Number.isFinite(to)) for (const [key, v] of [["x1", average], ["x2", to]]) one.hope.setAttribute(key, x(v).toFixed(1));
    });
    say(title, `${p.title} after ${at} pulls: ${world.names.map((name, k) => `${name} ${counts[k]} pulls`).join(", ")}.`);
  }

  function update() {
    const began = performance.now();
    const last = pullsOf(world);
    const games = players.map(played);
    const top = Math.max(...games.map((one) => one.regret[last - 1]), ...players.map((p) => meanOf(p)[world.ticks.length - 1]));
    const warp = warped === "log" ? log10 : undefined;
    chart.frame({ x: [1, last], y: [0, top * 1.05], warp, xTicks: warp ? [1, 10, 100, 1000].filter((v) => v <= last) : undefined, xText: count, xName: warp ? "pulls (logarithmic)" : "pulls" });
    const best = world.means.indexOf(Math.max(...world.means));
    bound.setAttribute("d", trace(world.ticks.map((t) => [chart.x(t), chart.y(world.slope * Math.log(t))])));
    const said = [];
    players.forEach((p, k) => {
      const { regret } = games[k];
      const spots = [];
      for (let t = 1; t <= at; t = Math.max(t + 1, Math.min(at, Math.round(t * 1.03)))) {
        spots.push([chart.x(t), chart.y(regret[t - 1])]);
        if (t === at) break;
      }
      p.line.setAttribute("d", trace(spots));
      p.mean.setAttribute("d", trace(world.ticks.map((t, n) => [chart.x(t), chart.y(meanOf(p)[n])])));
      p.dot.setAttribute("cx", chart.x(at).toFixed(1));
      p.dot.setAttribute("cy", chart.y(regret[at - 1]).toFixed(1));
      const its = known(p);
      drawArms(p, its);
      p.tile.value(brief(regret[at - 1]));
      p.tile.note(`best arm: ${percent(its.counts[best] / at)} of pulls`);
      said.push([p.title, regret[at - 1], its.counts[best] / at]);
    });
    const order = [...said].sort((a, b) => a[1] - b[1]);
    const lost = said.filter(([, , share]) => at >= 100 && share < 0.1).map(([name]) => name);
    say(verdict, `After ${count(at)} pulls ${order[0][0]} has lost least (${brief(order[0][1])}), ${order[2][0]} most (${brief(order[2][1])}).${lost.length ? ` ${lost.join(" and ")} hardly pulls the best arm.` : ""}`);
    say(title, `Regret after ${at} pulls: ${said.map(([name, value]) => `${name} ${brief(value)}`).join(", ")}.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, pulls: at, regrets: said.map(([, value]) => value) } }));
  }

  whenWide(chart.svg, update);
}

define("alignlab-bandit_race", banditRace, { epsilonGreedy, ucb, beta, game, seeded: (seed) => mulberry32(seed) });
