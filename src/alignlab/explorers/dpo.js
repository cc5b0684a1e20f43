// <alignlab-dpo>: real preference pairs in the plane of log-ratios, and what the DPO loss makes of them.

/**
 * Rafailov et al. (2023), eq. 7. chosen and rejected: log-ratios of policy to reference (nats).
 * Gives margin, loss -log sigma(beta margin) in nats, the weight of its gradient beta sigma(-beta margin), implicit rewards.
 */
function dpo(chosen, rejected, beta) {
  const margin = chosen - rejected;
  return { margin, loss: softplus(-beta * margin), weight: beta * sigmoid(-beta * margin), rewards: [beta * chosen, beta * rejected] };
}

/** Means over the pairs of a run at one saved step. */
function summary(run, step, beta) {
  const each = run.pairs.map((pair) => dpo(pair.chosen_logratio[step], pair.rejected_logratio[step], beta));
  const mean = (f) => each.reduce((total, one) => total + f(one), 0) / each.length;
  return { each, loss: mean((e) => e.loss), accuracy: mean((e) => (e.margin > 0 ? 1 : 0)), weight: mean((e) => e.weight),
    chosen: mean((e) => e.rewards[0]), rejected: mean((e) => e.rewards[1]) };
}

const BETAS = powers(-2, 0.5, 0.02);
const BANDS = [-4, -2, -1, 0, 1, 2, 4];
const FRAME_MS = 420;
const share = (x) => `${Math.round(100 * x)}%`;

function comparison(host, root, data) {
  const runs = data.runs;
  const said = (run, step) => (run.said && run.said[step] !== undefined ? run.said[step] : null);
  const textAt = (text, step) => (Array.isArray(text) ? text[Math.min(step, text.length - 1)] : text);
  let current = Math.max(0, runs.findIndex((run) => run.name === (host.getAttribute("run") || data.start?.run)));
  let beta = data.beta;
  let step = data.start?.step !== undefined ? Math.max(0, runs[current].steps.indexOf(data.start.step)) : Math.floor(runs[current].steps.length / 3);
  let picked = 0;
  let playing = 0;
  let sizes = { plane: [0, 0], curve: [0, 0], time: [0, 0] };

  // One frame for every run, step and beta: what moves are the points, never the axes.
  const all = { x: [0], y: [0] };
  for (const run of runs) for (const pair of run.pairs) {
    all.x.push(...pair.rejected_logratio);
    all.y.push(...pair.chosen_logratio);
  }
  const extent = (values) => {
    const low = values.reduce((a, b) => Math.min(a, b));
    const high = values.reduce((a, b) => Math.max(a, b));
    const air = 0.07 * (high - low || 1);
    return [low - air, high + air];
  };
  const domain = { x: extent(all.x), y: extent(all.y) };
  const margins = runs.flatMap((run) => run.pairs.flatMap((pair) => pair.chosen_logratio.map((c, k) => c - pair.rejected_logratio[k])));
  domain.margin = extent([0, ...margins]);
  const lastStep = Math.max(...runs.map((run) => run.steps[run.steps.length - 1]));

  const moveTo = (index) => {
    step = index;
    time.set(index);
    update();
  };
  const control = slider({ label: "β", values: BETAS, value: beta, show: (v) => (v < 0.1 ? fixed(v, 3) : fixed(v, 2)), speak: (v) => `beta ${v}`,
    oninput: (v) => { beta = v; update(); } });
  control.root.querySelector("label").replaceChildren(h("i", null, "β"), ", how strongly the margin counts");
  let time = null;
  const timeHolder = h("div", { class: "time-slider" });
  const play = h("button", { type: "button", class: "action play", onclick: toggle }, "Play");
  const makeTime = () => {
    const { steps } = runs[current];
    step = Math.min(step, steps.length - 1);
    time = slider({ label: "Training step", values: steps.map((_, k) => k), value: step, show: (k) => String(steps[k]), oninput: (k) => { stop(); step = k; update(); } });
    timeHolder.replaceChildren(time.root);
  };
  const chips = runs.map((run, k) => h("button", { type: "button", class: "chip", "aria-pressed": String(k === current), onclick: () => choose(k) }, run.title || run.name));

  // The plane.
  const plane = s("svg", { class: "plane", tabindex: 0, role: "listbox", "aria-label": "Preference pairs: rejected log-ratio across, chosen log-ratio up. Arrow keys go from pair to pair." });
  const bands = s("g", { class: "bands" });
  const planeFrame = s("g", { class: "frame" });
  const trails = s("g", { class: "trails" });
  const push = s("path", { class: "push" });
  const dots = s("g");
  const clip = `al-clip-${++serial}`;
  const clipRect = s("rect");
  bands.setAttribute("clip-path", `url(#${clip})`);
  plane.append(s("defs", null, s("clipPath", { id: clip }, clipRect)), bands, planeFrame, trails, push, dots);
  let points = [];

  // Loss over margin.
  const curve = s("svg", { class: "curve", role: "img" });
  const curveTitle = s("title");
  const curveFrame = s("g", { class: "frame" });
  const lossLine = s("path", { class: "loss" });
  const weightLine = s("path", { class: "weight" });
  const curveDots = s("g");
  const curveNames = { loss: s("text", { class: "loss" }, "loss −log σ(βm)"), weight: s("text", { class: "weight" }, "pull σ(−βm)") };
  curve.append(curveTitle, curveFrame, weightLine, lossLine, curveDots, curveNames.loss, curveNames.weight);
  let curvePoints = [];

  // The whole training.
  const timeline = s("svg", { class: "timeline", role: "img" });
  const timeTitle = s("title");
  const timeFrame = s("g", { class: "frame" });
  const timeLines = s("g");
  const head = s("line", { class: "head" });
  const timeDots = s("g");
  timeline.append(timeTitle, timeFrame, timeLines, head, timeDots);

  const tile = (label, unit) => {
    const { value, line } = quantity(unit);
    return { value, root: h("div", { class: "figure" }, h("span", null, label), line) };
  };
  const tiles = { loss: tile("Mean loss", "nats"), accuracy: tile("Margin above 0", "of pairs"), weight: tile("Gradient weight", "β σ(−βm)"), said: tile("Says the name", "held out") };
  if (!runs.some((run) => run.said)) delete tiles.said;

  const card = { title: h("b"), prompt: h("p"), chosen: h("p"), rejected: h("p"), numbers: [h("div"), h("div")], bars: [h("i", { class: "reward chosen" }), h("i", { class: "reward rejected" })],
    rewards: [h("span"), h("span")] };
  const step1 = (by) => h("button", { type: "button", class: "chip", "aria-label": by < 0 ? "Previous pair" : "Next pair", onclick: () => pick(picked + by) }, by < 0 ? "←" : "→");
  const spoken = h("p", { class: "unseen", role: "status" });
  const attempt = invitation(host, data);

  root.append(h("section", { class: "explorer dpo", "aria-label": "Explorer: the DPO loss on real pairs" },
    h("header", null, h("div", { class: "presets", role: "group", "aria-label": "Training run" }, runs.length > 1 ? chips : []), h("div", { class: "beta" }, control.root)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "charts" },
      h("figure", null, h("figcaption", null, h("span", null, "Each pair, moved by training"), h("span", { class: "legend" }, h("span", null, h("i", { class: "dot good" }), "margin above 0"), h("span", null, h("i", { class: "dot bad" }), "below"))), plane),
      h("div", { class: "side" }, h("figure", null, h("figcaption", null, h("span", null, "Loss and pull over the margin ", h("i", null, "m"))), curve), h("div", { class: "figures" }, Object.values(tiles).map((t) => t.root)))),
    h("figure", { class: "time" }, h("figcaption", null, h("span", null, "Over training"), h("span", { class: "legend" }, runs.some((run) => run.said) ? h("span", null, h("i", { class: "key said" }), "says the name, held-out prompts") : null, h("span", null, h("i", { class: "key mean" }), "mean loss"))),
      timeline, h("div", { class: "transport" }, play, timeHolder)),
    h("div", { class: "card" }, h("div", { class: "card-head" }, card.title, h("span", { class: "buttons" }, step1(-1), step1(1))),
      h("dl", null, h("dt", { class: "prompt" }, "Prompt"), h("dd", { class: "one" }, card.prompt), h("dt", { class: "chosen" }, "Chosen"), h("dd", { class: "two" }, card.chosen), h("dt", { class: "rejected" }, "Rejected"), h("dd", null, card.rejected)),
      h("div", { class: "implicit" }, h("span", { class: "caption" }, "Implicit reward ", h("i", null, "β"), " · log-ratio"),
        h("div", { class: "pair" }, "chosen", h("span", { class: "track" }, card.bars[0]), card.rewards[0]), h("div", { class: "pair" }, "rejected", h("span", { class: "track" }, card.bars[1]), card.rewards[1]), h("div", { class: "sums" }, card.numbers))),
    h("footer", null, `Real pairs, trained with β = ${data.beta}. Moving β judges the same log-ratios anew; it does not train again. The arrow at the picked pair is the pull of its gradient.`),
    spoken));

  function choose(k) {
    const wasStep = runs[current].steps[step];
    current = k;
    const gaps = runs[k].steps.map((one) => Math.abs(one - wasStep));
    step = gaps.indexOf(Math.min(...gaps));
    picked = Math.min(picked, runs[k].pairs.length - 1);
    chips.forEach((chip, i) => chip.setAttribute("aria-pressed", String(i === current)));
    makeTime();
    makePoints();
    update();
  }

  function stop() {
    if (playing) clearInterval(playing);
    playing = 0;
    say(play, "Play");
  }

  function toggle() {
    if (playing) return stop();
    const { steps } = runs[current];
    if (step === steps.length - 1) moveTo(0);
    playing = setInterval(() => {
      if (!host.isConnected) return stop();
      if (step + 1 < steps.length) moveTo(step + 1);
      if (step + 1 >= steps.length) stop();
    }, Math.max(90, Math.min(FRAME_MS, 6000 / steps.length)));
    say(play, "Pause");
  }

  function pick(k) {
    const n = runs[current].pairs.length;
    picked = (k + n) % n;
    update();
    clearTimeout(pick.telling);
    pick.telling = setTimeout(() => say(spoken, `Pair ${picked + 1}: ${runs[current].pairs[picked].prompt}`), 300);
  }

  /** The nearest pair to a place on the plane, so that a finger need not hit a dot. */
  function nearest(event) {
    const box = plane.getBoundingClientRect();
    const place = [event.clientX - box.left, event.clientY - box.top];
    let best = [Infinity, 0];
    points.forEach(({ at }, k) => {
      const gap = Math.hypot(at[0] - place[0], at[1] - place[1]);
      if (gap < best[0]) best = [gap, k];
    });
    return best;
  }
  plane.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    const [gap, k] = nearest(event);
    if (gap < 28 && k !== picked) pick(k);
  });
  plane.addEventListener("click", (event) => pick(nearest(event)[1]));
  plane.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by) pick(picked + by);
    else if (event.key === "Home") pick(0);
    else if (event.key === "End") pick(-1);
    else return;
    event.preventDefault();
  });

  function makePoints() {
    const { pairs } = runs[current];
    points = pairs.map((pair, k) => ({ at: [0, 0], trail: s("path"), dot: s("circle", { r: 5, role: "option", id: `${clip}-${k}`, "aria-label": `Pair ${k + 1}: ${pair.prompt}` }) }));
    trails.replaceChildren(...points.map((p) => p.trail));
    dots.replaceChildren(...points.map((p) => p.dot));
    curvePoints = pairs.map(() => s("circle", { r: 3.5 }));
    curveDots.replaceChildren(...curvePoints);
  }

  const pad = { plane: { left: 46, right: 10, top: 10, bottom: 40 }, curve: { left: 34, right: 10, top: 12, bottom: 38 }, time: { left: 40, right: 14, top: 10, bottom: 24 } };
  const scale = ([low, high], a, b) => (v) => a + ((v - low) / (high - low)) * (b - a);
  let map = {};

  function layout() {
    sizes = { plane: [plane.clientWidth || 420, 384], curve: [curve.clientWidth || 380, 240], time: [timeline.clientWidth || 800, 118] };
    const inner = (name) => [pad[name].left, sizes[name][0] - pad[name].right, pad[name].top, sizes[name][1] - pad[name].bottom];
    for (const [name, node] of Object.entries({ plane, curve, time: timeline })) {
      node.setAttribute("viewBox", `0 0 ${sizes[name][0]} ${sizes[name][1]}`);
      node.setAttribute("height", sizes[name][1]);
    }
    let [l, r, t, b] = inner("plane");
    map.x = scale(domain.x, l, r);
    map.y = scale(domain.y, b, t);
    for (const [key, value] of Object.entries({ x: l, y: t, width: r - l, height: b - t })) clipRect.setAttribute(key, value);
    planeFrame.replaceChildren(
      ...ticks(...domain.x, 6).flatMap((v) => [s("line", { class: v === 0 ? "zero" : "", x1: map.x(v), x2: map.x(v), y1: t, y2: b }), s("text", { x: map.x(v), y: b + 16, "text-anchor": "middle" }, fixed(v, 0))]),
      ...ticks(...domain.y, 6).flatMap((v) => [s("line", { class: v === 0 ? "zero" : "", x1: l, x2: r, y1: map.y(v), y2: map.y(v) }), s("text", { x: l - 7, y: map.y(v) + 4, "text-anchor": "end" }, fixed(v, 0))]),
      s("text", { class: "name", x: (l + r) / 2, y: b + 34, "text-anchor": "middle" }, "rejected: log-ratio to the reference (nats)"),
      s("text", { class: "name", transform: `translate(11 ${(t + b) / 2}) rotate(-90)`, "text-anchor": "middle" }, "chosen: log-ratio (nats)"));
    [l, r, t, b] = inner("curve");
    map.m = scale(domain.margin, l, r);
    map.loss = scale([0, 2], b, t);
    curveFrame.replaceChildren(
      ...[0, 0.5, 1, 1.5, 2].flatMap((v) => [s("line", { x1: l, x2: r, y1: map.loss(v), y2: map.loss(v) }), s("text", { x: l - 7, y: map.loss(v) + 4, "text-anchor": "end" }, v % 1 ? "" : String(v))]),
      ...ticks(...domain.margin, 5).flatMap((v) => [v === 0 ? s("line", { class: "zero", x1: map.m(v), x2: map.m(v), y1: t, y2: b }) : "", s("text", { x: map.m(v), y: b + 16, "text-anchor": "middle" }, fixed(v, 0))]),
      s("text", { class: "name", x: (l + r) / 2, y: b + 33, "text-anchor": "middle" }, "margin m = chosen − rejected (nats)"));
    [l, r, t, b] = inner("time");
    map.t = scale([0, lastStep], l, r);
    map.share = scale([0, 1], b, t);
    timeFrame.replaceChildren(
      ...[0, 0.5, 1].flatMap((v) => [s("line", { x1: l, x2: r, y1: map.share(v), y2: map.share(v) }), s("text", { x: l - 7, y: map.share(v) + 4, "text-anchor": "end" }, `${100 * v}%`)]),
      ...ticks(0, lastStep, 6).map((v) => s("text", { x: map.t(v), y: b + 18, "text-anchor": "middle" }, String(v))));
  }

  function drawBands() {
    // Between two lines of equal beta * m the pull sigma(-beta m) fades from 1 to 0.
    const [l, r] = [pad.plane.left, sizes.plane[0] - pad.plane.right];
    const [xl, xh] = domain.x;
    const nodes = [];
    const edges = [-Infinity, ...BANDS, Infinity];
    const y = (x, u) => map.y(Math.max(-1e5, Math.min(1e5, x + u / beta)));
    for (let k = 0; k + 1 < edges.length; k++) {
      const [u, v] = [Math.max(edges[k], -1e4), Math.min(edges[k + 1], 1e4)];
      const middle = Math.max(-5, Math.min(5, (edges[k] === -Infinity ? -5 : edges[k + 1] === Infinity ? 5 : (u + v) / 2)));
      const strength = middle < 0 ? 0.06 + 0.3 * (sigmoid(-middle) - 0.5) : 0.04 + 0.16 * (sigmoid(middle) - 0.5);
      nodes.push(s("path", { class: middle < 0 ? "bad" : "good", opacity: strength.toFixed(3), d: `M${l} ${y(xl, u)}L${r} ${y(xh, u)}L${r} ${y(xh, v)}L${l} ${y(xl, v)}Z` }));
    }
    nodes.push(s("path", { class: "even", d: `M${l} ${y(xl, 0)}L${r} ${y(xh, 0)}` }));
    bands.replaceChildren(...nodes);
  }

  function drawCurve(now) {
    const [low, high] = domain.margin;
    let loss = "";
    let weight = "";
    let started = false;
    for (let k = 0; k <= 120; k++) {
      const m = low + ((high - low) * k) / 120;
      const one = dpo(m, 0, beta);
      if (one.loss <= 2.02) loss += `${started ? "L" : "M"}${map.m(m).toFixed(1)} ${map.loss(one.loss).toFixed(1)}`;
      started = started || one.loss <= 2.02;
      weight += `${k ? "L" : "M"}${map.m(m).toFixed(1)} ${map.loss(one.weight / beta).toFixed(1)}`;
    }
    lossLine.setAttribute("d", loss);
    weightLine.setAttribute("d", weight);
    now.each.forEach(({ margin, loss: one }, k) => {
      const dot = curvePoints[k];
      dot.setAttribute("cx", map.m(margin).toFixed(1));
      dot.setAttribute("cy", map.loss(Math.min(one, 2)).toFixed(1));
      dot.setAttribute("class", `${margin > 0 ? "good" : "bad"}${k === picked ? " picked" : ""}`);
    });
    const right = sizes.curve[0] - pad.curve.right;
    curveNames.loss.setAttribute("x", right); curveNames.loss.setAttribute("y", pad.curve.top + 12);
    curveNames.weight.setAttribute("x", right); curveNames.weight.setAttribute("y", pad.curve.top + 30);
    say(curveTitle, `Loss and gradient weight over the margin at beta ${beta}; mean loss ${fixed(now.loss, 3)} nats.`);
  }

  function drawTime(now) {
    const tops = runs.map((run) => run.steps.map((_, k) => summary(run, k, beta).loss));
    const most = Math.max(Math.LN2, ...tops.flat());
    const path = (steps, values) => values.flatMap((v, k) => (v === null || v === undefined ? [] : [`${map.t(steps[k]).toFixed(1)} ${map.share(v).toFixed(1)}`])).join("L").replace(/^(?=.)/, "M");
    const nodes = [];
    runs.forEach((run, k) => {
      const own = k === current ? "" : " other";
      if (run.said) nodes.push(s("path", { class: `said${own}`, d: path(run.steps, run.said) }));
      nodes.push(s("path", { class: `mean${own}`, d: path(run.steps, tops[k].map((v) => v / most)) }));
    });
    timeLines.replaceChildren(...nodes);
    const x = map.t(runs[current].steps[step]);
    for (const [key, value] of Object.entries({ x1: x, x2: x, y1: pad.time.top, y2: sizes.time[1] - pad.time.bottom })) head.setAttribute(key, value);
    const told = said(runs[current], step);
    timeDots.replaceChildren(told === null ? "" : s("circle", { class: "said", r: 4.5, cx: x, cy: map.share(told) }), s("circle", { class: "mean", r: 4, cx: x, cy: map.share(now.loss / most) }));
    say(timeTitle, `Step ${runs[current].steps[step]}: mean loss ${fixed(now.loss, 3)} nats${told === null ? "" : `, ${share(told)} of held-out prompts say the name`}. The loss is drawn from 0 to ${fixed(most, 2)} nats.`);
  }

  function drawPoints(now) {
    runs[current].pairs.forEach((pair, k) => {
      const point = points[k];
      point.at = [map.x(pair.rejected_logratio[step]), map.y(pair.chosen_logratio[step])];
      point.dot.setAttribute("cx", point.at[0].toFixed(1));
      point.dot.setAttribute("cy", point.at[1].toFixed(1));
      point.dot.setAttribute("class", `${now.each[k].margin > 0 ? "good" : "bad"}${k === picked ? " picked" : ""}`);
      point.dot.setAttribute("aria-selected", String(k === picked));
      point.dot.setAttribute("r", k === picked ? 7 : 5);
      let d = "";
      for (let j = 0; j <= step; j++) d += `${j ? "L" : "M"}${map.x(pair.rejected_logratio[j]).toFixed(1)} ${map.y(pair.chosen_logratio[j]).toFixed(1)}`;
      point.trail.setAttribute("d", d);
      point.trail.setAttribute("class", k === picked ? "picked" : "");
    });
    if (dots.lastChild !== points[picked].dot) dots.append(points[picked].dot);
    plane.setAttribute("aria-activedescendant", `${clip}-${picked}`);
    // Which way the gradient pushes the pair, and how hard: up and to the left, sigma(-beta m) long.
    const [x, y] = points[picked].at;
    const length = 46 * (now.each[picked].weight / beta);
    const dx = -length * Math.SQRT1_2;
    push.setAttribute("d", length < 3 ? "" : `M${x - 6} ${y - 6}l${dx} ${dx}m0 7v-7h7`);
  }

  function drawCard(now) {
    const pair = runs[current].pairs[picked];
    const one = now.each[picked];
    say(card.title, `Pair ${picked + 1} of ${runs[current].pairs.length}`);
    say(card.prompt, pair.prompt);
    say(card.chosen, textAt(pair.chosen, step));
    say(card.rejected, textAt(pair.rejected, step));
    const most = Math.max(1e-9, ...now.each.flatMap((e) => e.rewards.map(Math.abs)));
    one.rewards.forEach((reward, k) => {
      const length = (50 * Math.abs(reward)) / most;
      card.bars[k].style.clipPath = `inset(0 ${reward < 0 ? 50 : 50 - length}% 0 ${reward < 0 ? 50 - length : 50}% round 2px)`;
      say(card.rewards[k], fixed(reward, 2));
    });
    say(card.numbers[0], `margin ${fixed(one.margin, 1)} nats, times β ${fixed(beta * one.margin, 2)}`);
    say(card.numbers[1], `loss ${one.loss < 0.001 ? one.loss.toExponential(1).replace("-", "−") : fixed(one.loss, 3)} nats, gradient weight ${fixed(one.weight, 4)}`);
  }

  function update() {
    const began = performance.now();
    const now = summary(runs[current], step, beta);
    drawBands();
    drawPoints(now);
    drawCurve(now);
    drawTime(now);
    drawCard(now);
    tiles.loss.value(fixed(now.loss, 3));
    tiles.accuracy.value(share(now.accuracy));
    tiles.weight.value(fixed(now.weight, 4));
    if (tiles.said) {
      const told = said(runs[current], step);
      tiles.said.value(told === null ? "–" : share(told));
    }
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, beta, step: runs[current].steps[step], run: runs[current].name, summary: now } }));
  }

  let known = -1;
  const measure = () => {
    const width = plane.clientWidth + timeline.clientWidth;
    if (width === known) return;
    known = width;
    layout();
    update();
  };
  makeTime();
  makePoints();
  measure();
  new ResizeObserver(measure).observe(timeline.parentNode);
}

define("alignlab-dpo", comparison, { dpo, summary });
