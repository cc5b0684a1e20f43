// <alignlab-gridworld>: draw a world, then watch value iteration, Q-learning or Monte Carlo find its values, in the page.
//
// Data: {maps: [{name, lines}], slip, gamma, step, goal, pit, cliff}: the library's maps and rewards. # wall, . free, S start, G goal
// and X pit (both end the episode), C cliff (costs, and back to the start). Actions: up, right, down, left. All is computed here.

const GRID_MOVES = [[-1, 0], [0, 1], [1, 0], [0, -1]];

/** The tables of a map: cells [row, column], terminal, start (probabilities), and outcomes[s][a] = [[p, next, reward]]. */
function gridModel(lines, { slip, step, goal, pit, cliff }) {
  const kind = (i, j) => (lines[i] === undefined || lines[i][j] === undefined ? "#" : lines[i][j]);
  const cells = [];
  const number = new Map();
  lines.forEach((line, i) => [...line].forEach((k, j) => { if (k !== "#" && k !== "C") { number.set(`${i},${j}`, cells.length); cells.push([i, j]); } }));
  const terminal = cells.map(([i, j]) => kind(i, j) === "G" || kind(i, j) === "X");
  let begins = cells.map(([i, j]) => kind(i, j) === "S");
  if (!begins.some(Boolean)) begins = terminal.map((ends) => !ends);
  const total = begins.filter(Boolean).length || 1;
  const start = begins.map((yes) => (yes ? 1 / total : 0));
  const arrive = (s, direction) => {
    const [i, j] = [cells[s][0] + GRID_MOVES[direction][0], cells[s][1] + GRID_MOVES[direction][1]];
    const k = kind(i, j);
    if (k === "C") return start.flatMap((p, s2) => (p ? [[p, s2, cliff]] : []));
    if (k === "#") return [[1, s, step]];
    return [[1, number.get(`${i},${j}`), k === "G" ? goal : k === "X" ? pit : step]];
  };
  const outcomes = cells.map((_, s) => GRID_MOVES.map((__, a) => {
    if (terminal[s]) return [[1, s, 0]];
    return [[1 - slip, a], [slip / 2, (a + 3) % 4], [slip / 2, (a + 1) % 4]].filter(([p]) => p > 0)
      .flatMap(([p, direction]) => arrive(s, direction).map(([q, s2, r]) => [p * q, s2, r]));
  }));
  return { cells, number, terminal, start, outcomes };
}

/** Q from V, one row per cell; V counts 0 where the episode ends. */
const gridQ = (model, V, gamma) => model.outcomes.map((row) => row.map((list) => list.reduce((sum, [p, s2, r]) => sum + p * (r + (model.terminal[s2] ? 0 : gamma * V[s2])), 0)));
const best4 = (q) => Math.max(q[0], q[1], q[2], q[3]);

/** One sweep of value iteration over all cells, each reading the old values: {V, change}. */
function gridSweep(model, V, gamma) {
  const next = gridQ(model, V, gamma).map((q, s) => (model.terminal[s] ? 0 : best4(q)));
  return { V: next, change: next.reduce((most, v, s) => Math.max(most, Math.abs(v - V[s])), 0) };
}

/** The optimal values, swept in place until they stand still. */
function gridSolve(model, gamma, from) {
  const V = model.cells.map((_, s) => (model.terminal[s] ? 0 : (from && from[s]) || 0));
  for (let k = 0; k < 5000; k++) {
    let change = 0;
    for (let s = 0; s < V.length; s++) {
      if (model.terminal[s]) continue;
      let top = -Infinity;
      for (const list of model.outcomes[s]) {
        let q = 0;
        for (const [p, s2, r] of list) q += p * (r + (model.terminal[s2] ? 0 : gamma * V[s2]));
        if (q > top) top = q;
      }
      change = Math.max(change, Math.abs(top - V[s]));
      V[s] = top;
    }
    if (change < 1e-9) break;
  }
  return V;
}

const pickOne = (weights, u) => {
  let left = u;
  for (let k = 0; k < weights.length; k++) if ((left -= weights[k]) < 0) return k;
  return weights.reduce((last, w, k) => (w > 0 ? k : last), 0);
};

/** Epsilon-greedily, equal values alike. */
function gridAct(q, epsilon, random) {
  if (random() < epsilon) return Math.floor(random() * 4);
  const top = best4(q);
  const ties = [0, 1, 2, 3].filter((a) => q[a] >= top - 1e-12);
  return ties[Math.floor(random() * ties.length)];
}

function gridStep(model, s, a, random) {
  const list = model.outcomes[s][a];
  const [, s2, r] = list[pickOne(list.map(([p]) => p), random())];
  return [s2, r, model.terminal[s2]];
}

/** Q(s, a) moves by alpha towards r + gamma max Q(s', .), or r alone at an end. */
function gridLearn(Q, s, a, r, s2, ended, alpha, gamma) {
  Q[s][a] += alpha * (r + (ended ? 0 : gamma * best4(Q[s2])) - Q[s][a]);
}

/** First-visit Monte Carlo: each pair's Q is the mean of the returns after its first visits. path: [[s, a, r]]. */
function gridAverage(Q, N, path, gamma) {
  let G = 0;
  const first = new Map();
  for (let t = path.length - 1; t >= 0; t--) {
    G = path[t][2] + gamma * G;
    first.set(path[t][0] * 4 + path[t][1], G);
  }
  for (const [pair, gain] of first) {
    const [s, a] = [pair >> 2, pair & 3];
    N[s][a] += 1;
    Q[s][a] += (gain - Q[s][a]) / N[s][a];
  }
}

const GRID_LIMIT = 500;

function gridworld(host, root, data) {
  const start = data.start || {};
  let mapName = start.map || data.maps[0].name;
  let lines = [...data.maps.find((map) => map.name === mapName).lines];
  let method = start.method || "values";
  let brush = "look";
  let [gamma, slip, step] = [start.gamma ?? data.gamma, start.slip ?? data.slip, start.step ?? data.step];
  let [alpha, epsilon] = [start.alpha ?? 0.2, start.epsilon ?? 0.2];
  let model, exactV, V, Q, N, random, agent, path, count, episodes, change, playing = 0;
  let cursor = [0, 0];
  let width = 0;

  const zeros = () => model.cells.map(() => [0, 0, 0, 0]);
  function build() {
    model = gridModel(lines, { slip, step, goal: data.goal, pit: data.pit, cliff: data.cliff });
    exactV = gridSolve(model, gamma);
  }
  function reset() {
    random = mulberry32(start.seed ?? 1);
    [V, Q, N] = [model.cells.map(() => 0), zeros(), zeros()];
    [count, episodes, change] = [0, 0, NaN];
    begin();
  }
  function begin() { agent = pickOne(model.start, random()); path = [agent]; }

  const METHODS = {
    values: { name: "Value iteration", buttons: ["One sweep", "10 sweeps", "100 sweeps"], sizes: [1, 10, 100], counts: "sweeps" },
    qlearning: { name: "Q-learning", buttons: ["One step", "One episode", "100 episodes"], sizes: [0, 1, 100], counts: "steps" },
    montecarlo: { name: "Monte Carlo", buttons: ["One episode", "10 episodes", "100 episodes"], sizes: [1, 10, 100], counts: "steps" },
  };
  const live = () => model.terminal.some((ends, s) => !ends && model.start[s] > 0);

  function oneStep() {
    if (model.terminal[agent] || path.length > GRID_LIMIT) begin();
    const a = gridAct(Q[agent], epsilon, random);
    const [s2, r, ended] = gridStep(model, agent, a, random);
    gridLearn(Q, agent, a, r, s2, ended, alpha, gamma);
    agent = s2;
    path.push(s2);
    count += 1;
    const over = ended || path.length > GRID_LIMIT;
    if (over) episodes += 1;
    return over;
  }
  function oneEpisode() {
    if (method === "qlearning") { while (!oneStep()); return; }
    begin();
    const seen = [];
    while (!model.terminal[agent] && seen.length < GRID_LIMIT) {
      const a = gridAct(Q[agent], epsilon, random);
      const [s2, r] = gridStep(model, agent, a, random);
      seen.push([agent, a, r]);
      agent = s2;
      path.push(s2);
    }
    count += seen.length;
    episodes += 1;
    gridAverage(Q, N, seen, gamma);
  }
  function work(size) {
    if (!live()) return;
    if (method === "values") for (let k = 0; k < size; k++) { ({ V, change } = gridSweep(model, V, gamma)); count += 1; if (change === 0) break; }
    else if (size === 0) oneStep();
    else for (let k = 0; k < size; k++) oneEpisode();
  }

  const mapId = `al-map-${++serial}`;
  const select = h("select", { id: mapId, onchange: () => { mapName = select.value; lines = [...data.maps.find((map) => map.name === mapName).lines]; cursor = [0, 0]; stop(); build(); reset(); layout(); update(); } }, data.maps.map((map) => h("option", { value: map.name }, map.title || map.name)));
  select.value = mapName;
  const methodChoice = choice({ label: "Method", options: Object.entries(METHODS).map(([key, m]) => [key, m.name]), value: method, onchoose: (v) => { method = v; stop(); reset(); relabel(); update(); } });
  const brushes = choice({ label: "Brush", options: [["look", "Look"], ["#", "Wall"], [".", "Free"], ["G", "Goal"], ["X", "Pit"], ["S", "Start"]], value: brush, onchoose: (v) => { brush = v; } });
  const changed = () => { build(); update(); };
  const gammaSlider = slider({ label: "Discount γ", values: range(0.5, 0.99, 0.01), value: gamma, show: (v) => fixed(v, 2), speak: (v) => `gamma ${v}`, oninput: (v) => { gamma = v; changed(); } });
  const slipSlider = slider({ label: "Slip", values: range(0, 0.6, 0.05), value: slip, show: percentOf, oninput: (v) => { slip = v; changed(); } });
  const stepSlider = slider({ label: "Reward of a step", values: range(-1, 0, 0.02), value: step, show: (v) => fixed(v, 2), oninput: (v) => { step = v; changed(); } });
  const alphaSlider = slider({ label: "Step size α", values: range(0.02, 1, 0.02), value: alpha, show: (v) => fixed(v, 2), speak: (v) => `alpha ${v}`, oninput: (v) => { alpha = v; update(); } });
  const epsilonSlider = slider({ label: "Exploration ε", values: range(0, 1, 0.05), value: epsilon, show: (v) => fixed(v, 2), speak: (v) => `epsilon ${v}`, oninput: (v) => { epsilon = v; update(); } });
  function percentOf(v) { return `${Math.round(100 * v)}%`; }

  const runs = [0, 1, 2].map((k) => h("button", { type: "button", class: k ? "action quiet" : "action", onclick: () => { work(METHODS[method].sizes[k]); update(); } }));
  const play = h("button", { type: "button", class: "action quiet", onclick: () => (playing ? stop() : run()) });
  const again = h("button", { type: "button", class: "chip", onclick: () => { stop(); reset(); update(); } }, "Forget all");
  const relabel = () => METHODS[method].buttons.forEach((text, k) => runs[k].replaceChildren(h("span", null, text)));
  const playLabel = () => play.replaceChildren(h("span", null, playing ? "Pause" : "Play"));
  function stop() { clearTimeout(playing); playing = 0; playLabel(); }
  function run() {
    const tick = () => {
      if (!host.isConnected) return stop();
      work(method === "values" ? 1 : method === "qlearning" ? 0 : 1);
      update();
      playing = setTimeout(tick, method === "values" ? 350 : method === "qlearning" ? 60 : 250);
    };
    playing = setTimeout(tick, 0);
    playLabel();
  }

  const title = s("title");
  const field = s("g");
  const trail = s("path", { class: "trail" });
  const walker = s("circle", { class: "walker" });
  const mark = s("rect", { class: "cursor" });
  const svg = s("svg", { class: "world", tabindex: 0, role: "application", height: 400, "aria-label": "The map: arrow keys move the cursor, space draws with the brush",
    onkeydown: (event) => {
      const move = { ArrowUp: 0, ArrowRight: 1, ArrowDown: 2, ArrowLeft: 3 }[event.key];
      if (move === undefined && event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      if (move === undefined) paint();
      else cursor = [Math.min(lines.length - 1, Math.max(0, cursor[0] + GRID_MOVES[move][0])), Math.min(lines[0].length - 1, Math.max(0, cursor[1] + GRID_MOVES[move][1]))];
      update();
    },
    onpointerdown: (event) => { if (point(event)) { paint(); update(); } },
    onpointermove: (event) => { if (event.buttons & 1 && brush !== "look" && brush !== "S") { const was = String(cursor); if (point(event) && String(cursor) !== was) { paint(); update(); } } } }, title, field, trail, walker, mark);
  let nodes = [];
  let side = 0;
  let origin = [0, 0];
  function point(event) {
    const box = svg.getBoundingClientRect();
    const [i, j] = [Math.floor((event.clientY - box.top - origin[1]) / side), Math.floor((event.clientX - box.left - origin[0]) / side)];
    if (i < 0 || j < 0 || i >= lines.length || j >= lines[0].length) return false;
    cursor = [i, j];
    return true;
  }
  function paint() {
    if (brush === "look") return;
    const [i, j] = cursor;
    const put = (r, c, k) => { lines[r] = lines[r].slice(0, c) + k + lines[r].slice(c + 1); };
    if (brush === "S") lines.forEach((line, r) => { lines[r] = line.replaceAll("S", "."); });
    put(i, j, brush);
    // What is known of a cell is kept where the cell still stands: watch the values find their way round a new wall.
    const old = { model, V, Q, N };
    build();
    const kept = (s2) => old.model.number.get(model.cells[s2].join(","));
    [V, Q, N] = [model.cells.map((_, s2) => (model.terminal[s2] ? 0 : old.V[kept(s2)] ?? 0)), ...[old.Q, old.N].map((table) => model.cells.map((_, s2) => (model.terminal[s2] ? [0, 0, 0, 0] : table[kept(s2)] || [0, 0, 0, 0])))];
    begin();
    layout();
  }

  /** Squares, triangles, numbers and arrows, made anew for a map or a width. */
  function layout() {
    width = svg.getBoundingClientRect().width || width || 400;
    const height = width < 460 ? 320 : 400;
    svg.setAttribute("height", height);
    side = Math.floor(Math.min(width / lines[0].length, height / lines.length, 110));
    origin = [(width - side * lines[0].length) / 2, (height - side * lines.length) / 2];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    nodes = [];
    const drawn = [];
    lines.forEach((line, i) => [...line].forEach((k, j) => {
      const [x, y] = [origin[0] + j * side, origin[1] + i * side];
      const square = s("rect", { x, y, width: side, height: side, class: `cell ${{ "#": "wall", G: "goal", X: "pit", C: "pit" }[k] || "free"}` });
      drawn.push(square);
      const state = model.number.get(`${i},${j}`);
      const label = { G: `+${data.goal}`, X: fixed(data.pit, 0), C: fixed(data.cliff, 0) }[k];
      if (label && side >= 30) drawn.push(s("text", { x: x + side / 2, y: y + side / 2 + 4, "text-anchor": "middle", class: "kind" }, label));
      if (state === undefined || model.terminal[state]) return;
      const [cx, cy] = [x + side / 2, y + side / 2];
      const corner = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]];
      const wedges = [0, 1, 2, 3].map((a) => s("path", { class: "wedge", d: `M${cx} ${cy}L${corner[a].join(" ")}L${corner[(a + 1) % 4].join(" ")}Z` }));
      const arrow = s("path", { class: "arrow", transform: `translate(${cx} ${cy})` });
      const text = s("text", { x: x + 5, y: y + 15, class: "number" });
      drawn.push(...wedges, s("rect", { x, y, width: side, height: side, class: "edge" }), arrow, side >= 46 ? text : "", k === "S" && side >= 30 ? s("text", { x: x + side - 5, y: y + side - 6, "text-anchor": "end", class: "begin" }, "S") : "");
      nodes.push({ state, wedges, arrow, text });
    }));
    field.replaceChildren(...drawn.filter((node) => node !== ""));
  }

  const tiles = { count: tile("Done", ""), gap: tile("Largest |V − V*|", ""), start: tile("V of the start", ""), exact: tile("V* of the start", "") };
  const about = h("p", { class: "about", role: "status" });
  const attempt = invitation(host, data, "Press One sweep a few times: values spread from the goal. Then draw a wall and go on.");
  root.append(h("section", { class: "explorer grid-world", "aria-label": "Explorer: a gridworld" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: mapId }, "Map"), select), methodChoice.root),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "board" },
      h("div", null, brushes.root, svg, about),
      h("div", { class: "panel" }, h("div", { class: "runs" }, runs, play, again), gammaSlider.root, slipSlider.root, stepSlider.root, alphaSlider.root, epsilonSlider.root)),
    h("div", { class: "figures" }, Object.values(tiles).map((it) => it.root)),
    h("footer", null, "Each wedge is Q of one action, teal above 0 and red below; the number is V, the largest of the four; the arrow points to the best action. V* is swept until it stands still. α counts for Q-learning, ε for both learners.")));
  relabel();
  playLabel();

  const tips = ["M0 -SLW -WL-W -WZ", "M S 0LW WLW -WZ", "M0 SLW WL-W WZ", "M-S 0L-W WL-W -WZ"];
  function update() {
    const began = performance.now();
    const shownQ = method === "values" ? gridQ(model, V, gamma) : Q;
    const shownV = method === "values" ? V : Q.map((q, s2) => (model.terminal[s2] ? 0 : best4(q)));
    const high = Math.max(0.01, ...exactV.map(Math.abs), ...shownV.map(Math.abs));
    for (const { state, wedges, arrow, text } of nodes) {
      const q = shownQ[state];
      const top = best4(q);
      wedges.forEach((node, a) => { node.setAttribute("class", q[a] >= 0 ? "wedge good" : "wedge bad"); node.setAttribute("fill-opacity", Math.min(0.85, 0.85 * Math.abs(q[a]) / high).toFixed(2)); });
      const [far, wide] = [Math.max(7, side * 0.22).toFixed(1), Math.max(3.5, side * 0.06).toFixed(1)];
      const known = q.some((v) => v !== q[0]);
      arrow.setAttribute("d", known ? [0, 1, 2, 3].filter((a) => q[a] >= top - 1e-9).map((a) => tips[a].replaceAll("S", far).replaceAll("W", wide)).join("") : "");
      say(text, fixed(shownV[state], 2));
    }
    const centre = (s2) => [origin[0] + (model.cells[s2][1] + 0.5) * side, origin[1] + (model.cells[s2][0] + 0.5) * side];
    const walking = method !== "values" && path.length > 0 && model.cells.length > 0;
    trail.setAttribute("d", walking ? trace(path.slice(-60).map(centre)) : "");
    walker.setAttribute("visibility", walking ? "visible" : "hidden");
    if (walking) for (const [key, v] of Object.entries({ cx: centre(agent)[0], cy: centre(agent)[1], r: Math.max(4, side * 0.12) })) walker.setAttribute(key, v);
    for (const [key, v] of Object.entries({ x: origin[0] + cursor[1] * side + 1, y: origin[1] + cursor[0] * side + 1, width: side - 2, height: side - 2 })) mark.setAttribute(key, v);
    const gap = shownV.reduce((most, v, s2) => Math.max(most, Math.abs(v - exactV[s2])), 0);
    const mean = (values) => model.start.reduce((sum, p, s2) => sum + p * values[s2], 0);
    tiles.count.value(method === "values" ? `${count} sweeps` : `${grouped.format(count)} steps`);
    tiles.count.note(method === "values" ? `last change ${brief(change)}` : `${episodes} episodes`);
    tiles.gap.value(fixed(gap, 3));
    tiles.start.value(fixed(mean(shownV), 3));
    tiles.exact.value(fixed(mean(exactV), 3));
    const here = model.number.get(cursor.join(","));
    const place = `Row ${cursor[0] + 1}, column ${cursor[1] + 1}: `;
    say(about, place + (here === undefined ? (lines[cursor[0]][cursor[1]] === "C" ? "cliff, back to the start." : "a wall.") : model.terminal[here] ? "the episode ends here, V = 0." : `V ${fixed(shownV[here], 3)} (V* ${fixed(exactV[here], 3)}); Q up ${fixed(shownQ[here][0], 2)}, right ${fixed(shownQ[here][1], 2)}, down ${fixed(shownQ[here][2], 2)}, left ${fixed(shownQ[here][3], 2)}.`));
    say(title, `${METHODS[method].name}, ${count} ${METHODS[method].counts}: the largest distance to the optimal values is ${fixed(gap, 3)}.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, V: shownV, Q: shownQ, exact: exactV, gap, count, episodes, cells: model.cells } }));
  }
  build();
  reset();
  if (method === "values") work(start.sweeps ?? 2); // opens with the values on their way
  layout();
  whenWide(root.querySelector(".explorer"), () => { layout(); update(); });
}

define("alignlab-gridworld", gridworld, { gridModel, gridQ, gridSweep, gridSolve, gridStep, gridAct, gridLearn, gridAverage, mulberry32 });
