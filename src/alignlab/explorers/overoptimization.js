// <alignlab-overoptimization>: runs of one beta after another on the plane of KL and gold reward, beside the exact optimum.
//
// Data: {runs: [{beta, seed, label, points: [{step, kl, gold, proxy, loss, chosen_logp, rejected_logp, broken}]}], frontier:
// [{beta, kl, gold}]}. Only step, kl and gold must be there. kl and log-probabilities in nats, broken a share of responses.
// May be added: proxy_name, start: {beta, seed, step}.

/** The most gold reward at this KL: the frontier, with straight lines between its points and flat after its last. */
function frontierAt(frontier, kl) {
  const points = [...frontier].sort((a, b) => a.kl - b.kl);
  if (!points.length || kl < points[0].kl) return NaN;
  for (let k = 1; k < points.length; k++) {
    const [a, b] = [points[k - 1], points[k]];
    if (kl <= b.kl) return b.kl === a.kl ? b.gold : a.gold + ((b.gold - a.gold) * (kl - a.kl)) / (b.kl - a.kl);
  }
  return points[points.length - 1].gold;
}

/** The point of a run at a step: the last one saved until then. */
const pointAt = (run, step) => run.points.reduce((found, point) => (point.step <= step ? point : found), run.points[0]);

/** The point of a run with the most gold reward, the earliest of equals. */
const best = (run) => run.points.reduce((found, point) => (point.gold > found.gold ? point : found), run.points[0]);

function overoptimization(host, root, data) {
  const runs = data.runs.map((run) => ({ ...run, points: [...run.points].sort((a, b) => a.step - b.step) }));
  // At KL 0 there is the reference alone: where a run began from it, the frontier begins there too.
  const origin = runs.map((run) => run.points[0]).find((point) => point.kl === 0);
  const frontier = [...(data.frontier?.length && origin ? [{ kl: 0, gold: origin.gold }] : []), ...(data.frontier || [])].sort((a, b) => a.kl - b.kl);
  const has = (key) => runs.some((run) => run.points.some((point) => Number.isFinite(point[key])));
  const number = (x) => (Number.isFinite(x) ? x : NaN);
  const proxyName = data.proxy_name || "proxy reward";
  const betas = [...new Set(runs.map((run) => run.beta))].sort((a, b) => a - b);
  const steps = [...new Set(runs.flatMap((run) => run.points.map((point) => point.step)))].sort((a, b) => a - b);
  const lastStep = steps[steps.length - 1];
  const start = data.start || {};
  const fall = (run) => best(run).gold - run.points[run.points.length - 1].gold;
  // Open where gold falls farthest after its best: the thing to see.
  const worst = runs.reduce((found, run) => (fall(run) > fall(found) ? run : found), runs[0]);
  let beta = betas.includes(start.beta) ? start.beta : worst.beta;
  let current = runs.find((run) => run.beta === beta && (start.seed === undefined ? run === worst : run.seed === start.seed)) || runs.find((run) => run.beta === beta);
  let step = steps.includes(start.step) ? start.step : lastStep;
  let warp = "root";

  const siblings = () => runs.filter((run) => run.beta === beta);
  const several = betas.some((b) => runs.filter((run) => run.beta === b).length > 1);
  const named = (run, k) => run.label || (run.seed === undefined ? `run ${k + 1}` : `seed ${run.seed}`);
  const ownNames = () => {
    const names = siblings().map(named);
    return siblings().map((run, k) => (names.filter((name) => name === names[k]).length > 1 ? `${names[k]}, ${run.seed === undefined ? `run ${k + 1}` : `seed ${run.seed}`}` : names[k]));
  };
  const betaSlider = slider({ label: "β", values: betas.length > 1 ? betas : [betas[0], betas[0]], value: beta, show: (v) => String(+v.toPrecision(3)), speak: (v) => `beta ${v}`,
    oninput: (v) => {
      const place = siblings().indexOf(current);
      beta = v;
      current = siblings().find((run) => run.seed !== undefined && run.seed === current.seed) || siblings()[Math.min(place, siblings().length - 1)];
      fill();
      update();
    } });
  betaSlider.root.querySelector("label").replaceChildren(h("i", null, "β"), " of the run");
  betaSlider.root.hidden = betas.length < 2;
  const stepSlider = slider({ label: "Training step", values: steps, value: step, show: (v) => String(v), oninput: (v) => { step = v; update(); } });
  const pickId = `al-run-${++serial}`;
  const select = h("select", { id: pickId, onchange: () => { current = siblings()[+select.value]; update(); } });
  const fill = () => {
    const names = ownNames();
    select.replaceChildren(...names.map((name, k) => h("option", { value: k, selected: siblings()[k] === current }, name)));
    select.value = String(siblings().indexOf(current));
  };
  const toBest = h("button", { type: "button", class: "chip", onclick: () => { step = best(current).step; stepSlider.set(step); update(); } }, "To the best gold");
  const toEnd = h("button", { type: "button", class: "chip", onclick: () => { step = lastStep; stepSlider.set(step); update(); } }, "To the end");
  const axisChoice = choice({ label: "Scale of the KL axis", options: [["root", "√KL"], ["plain", "KL"]], value: warp, onchoose: (v) => { warp = v; update(); } });

  /** Every run as a faint line, this beta's as clearer ones, the picked run up to the step, its rest dotted, a dot, a ring at its best. */
  const trail = (chart) => {
    const lines = runs.map(() => s("path", { class: "run" }));
    const rest = s("path", { class: "run rest" });
    const walked = s("path", { class: "run walked" });
    const ring = s("circle", { class: "best", r: 7 });
    const dot = s("circle", { class: "here", r: 5.5 });
    return { chart, lines, rest, walked, ring, dot };
  };
  const gold = trail(axes({ height: 320, left: 46, attributes: { class: "plane", role: "img" } }));
  const exact = s("path", { class: "frontier" });
  const exactDots = frontier.map(() => s("circle", { class: "frontier", r: 3 }));
  const gap = s("line", { class: "gap" });
  const goldTitle = s("title");
  gold.chart.svg.prepend(goldTitle);
  gold.chart.marks.append(...gold.lines, exact, ...exactDots, gap, gold.rest, gold.walked);
  gold.chart.over.append(gold.ring, gold.dot);
  const proxy = has("proxy") ? trail(axes({ height: 320, left: 46, attributes: { class: "plane", role: "img" } })) : null;
  const proxyTitle = s("title");
  if (proxy) {
    proxy.chart.svg.prepend(proxyTitle);
    proxy.chart.marks.append(...proxy.lines, proxy.rest, proxy.walked);
    proxy.chart.over.append(proxy.ring, proxy.dot);
  }

  // Small plots of the picked run over training.
  const small = (keys, options) => {
    const chart = axes({ height: 128, left: 46, bottom: 24, attributes: { role: "img", class: "over-time" } });
    const head = s("line", { class: "head" });
    const title = s("title");
    const lines = keys.map(([, name]) => s("path", { class: `line ${name}` }));
    const dots = keys.map(([, name]) => s("circle", { class: name, r: 4 }));
    chart.svg.prepend(title);
    chart.marks.append(head, ...lines);
    chart.over.append(...dots);
    return { chart, keys, head, lines, dots, title, ...options };
  };
  const plots = [];
  if (has("chosen_logp") && has("rejected_logp")) plots.push(small([["chosen_logp", "chosen"], ["rejected_logp", "rejected"]], { caption: "Log-probability (nats)", legend: [["chosen", "chosen"], ["rejected", "rejected"]] }));
  if (has("broken")) plots.push(small([["broken", "broken"]], { caption: "Broken responses", share: true, legend: [] }));
  if (has("loss")) plots.push(small([["loss", "loss"]], { caption: "Training loss", legend: [] }));
  const domains = { kl: Math.max(1e-6, ...runs.flatMap((run) => run.points.map((p) => p.kl)).filter(Number.isFinite), ...frontier.map((p) => p.kl)),
    gold: extent([...runs.flatMap((run) => run.points.map((p) => p.gold)), ...frontier.map((p) => p.gold)].filter(Number.isFinite), 0.05),
    proxy: extent(runs.flatMap((run) => run.points.map((p) => p.proxy)).filter(Number.isFinite), 0.05) };
  for (const plot of plots) {
    const values = runs.flatMap((run) => run.points.flatMap((p) => plot.keys.map(([key]) => p[key]))).filter(Number.isFinite);
    plot.domain = plot.share ? [0, Math.max(0.05, ...values) * 1.05] : extent(plot.keys[0][0] === "loss" ? [0, ...values] : values, 0.05);
  }

  const tiles = { gold: tile("Gold reward", ""), kl: tile("KL to the reference", "nats"), gap: tile("Below the exact best", "at this KL"), broken: tile("Broken", "of responses"), proxy: tile(proxyName[0].toUpperCase() + proxyName.slice(1), "") };
  if (!frontier.length) delete tiles.gap;
  if (!has("broken")) delete tiles.broken;
  if (!proxy || Object.keys(tiles).length > 4) delete tiles.proxy;
  const verdict = h("p", { class: "verdict", role: "status" });
  const attempt = invitation(host, data, "Go to the best gold, then step on: how long does the proxy still rise? Then try another β.");
  const legend = (...items) => h("span", { class: "legend" }, items.filter(Boolean).map(([name, text]) => h("span", null, h("i", { class: `key ${name}` }), text)));

  root.append(h("section", { class: "explorer overopt", "aria-label": "Explorer: beta and over-optimization" },
    h("header", null, h("div", { class: "beta" }, betaSlider.root), several ? h("div", { class: "pick" }, h("label", { for: pickId }, "Run"), select) : null, axisChoice.root),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "legend all" }, [...legend(["walked", "this run"], ["ring", "its most gold"], runs.length > 1 ? ["others", "other runs"] : null, frontier.length ? ["frontier", "exact best"] : null).children]),
    h("div", { class: proxy ? "charts" : "charts single" },
      h("figure", null, h("figcaption", null, h("span", null, "Gold reward against KL")), gold.chart.svg),
      proxy ? h("figure", null, h("figcaption", null, h("span", null, `Gold reward against ${proxyName}`)), proxy.chart.svg) : null),
    h("div", { class: "walk" }, stepSlider.root, h("div", { class: "buttons" }, toBest, toEnd)),
    h("div", { class: `figures of-${Object.keys(tiles).length}` }, Object.values(tiles).map((t) => t.root)),
    verdict,
    plots.length ? h("div", { class: `small-plots of-${plots.length}` }, plots.map((plot) => h("figure", null, h("figcaption", null, h("span", null, plot.caption), legend(...plot.legend)), plot.chart.svg))) : null,
    h("footer", null, `Real runs. Gold is the true reward${proxy ? `; training follows the ${proxyName}` : ""}. `, frontier.length ? "The exact best is the closed-form optimum π_ref exp(gold / β) / Z: at its KL no policy has more gold." : "")));

  const place = (node, x, y) => {
    const fine = Number.isFinite(x) && Number.isFinite(y);
    node.setAttribute("visibility", fine ? "visible" : "hidden");
    if (fine) for (const [key, v] of [["cx", x], ["cy", y]]) node.setAttribute(key, v.toFixed(1));
  };

  function drawTrail(it, across, title, xName) {
    const { chart } = it;
    const spot = (p) => [chart.x(number(across(p))), chart.y(number(p.gold))];
    runs.forEach((run, k) => {
      it.lines[k].setAttribute("class", run === current ? "run hidden" : run.beta === beta ? "run same" : "run");
      it.lines[k].setAttribute("d", trace(run.points.map(spot)));
    });
    it.walked.setAttribute("d", trace(current.points.filter((p) => p.step <= step).map(spot)));
    it.rest.setAttribute("d", trace(current.points.filter((p, k) => p.step >= step || (current.points[k + 1] && current.points[k + 1].step > step)).map(spot)));
    const now = pointAt(current, step);
    place(it.dot, ...spot(now));
    place(it.ring, ...spot(best(current)));
    say(title, `Beta ${beta}, step ${now.step}: ${xName} ${brief(across(now))}, gold reward ${brief(now.gold)}.`);
  }

  const rootOf = (v) => Math.sqrt(Math.max(0, v));
  function update() {
    const began = performance.now();
    const now = pointAt(current, step);
    const top = best(current);
    const end = current.points[current.points.length - 1];
    const high = domains.kl * 1.04;
    const rootTicks = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500].filter((v) => v <= high && (v === 0 || v >= high / 25));
    gold.chart.frame({ x: [0, high], y: domains.gold, warp: warp === "root" ? rootOf : undefined, xTicks: warp === "root" ? rootTicks : undefined, xText: (v) => String(+v.toPrecision(6)), xName: warp === "root" ? "KL(policy || reference) in nats, on a square-root scale" : "KL(policy || reference), nats" });
    drawTrail(gold, (p) => p.kl, goldTitle, "KL");
    const bound = [];
    if (frontier.length) {
      for (let k = 0; k <= 90; k++) {
        const kl = high * (k / 90) ** 2;
        bound.push([gold.chart.x(kl), gold.chart.y(frontierAt(frontier, kl))]);
      }
      frontier.forEach((p) => { if (p.kl <= high) bound.push([gold.chart.x(p.kl), gold.chart.y(p.gold)]); });
      bound.sort((a, b) => a[0] - b[0]);
      exact.setAttribute("d", trace(bound.filter(([, y]) => Number.isFinite(y))));
      frontier.forEach((p, k) => place(exactDots[k], gold.chart.x(p.kl), gold.chart.y(p.gold)));
    }
    const most = frontier.length ? frontierAt(frontier, now.kl) : NaN;
    const line = { x1: gold.chart.x(now.kl), x2: gold.chart.x(now.kl), y1: gold.chart.y(now.gold), y2: gold.chart.y(most) };
    gap.setAttribute("visibility", Object.values(line).every(Number.isFinite) ? "visible" : "hidden");
    for (const [key, v] of Object.entries(line)) if (Number.isFinite(v)) gap.setAttribute(key, v.toFixed(1));
    if (proxy) {
      proxy.chart.frame({ x: domains.proxy, y: domains.gold, xName: proxyName });
      drawTrail(proxy, (p) => p.proxy, proxyTitle, proxyName);
    }
    for (const plot of plots) {
      plot.chart.frame({ x: [0, lastStep || 1], y: plot.domain, yText: plot.share ? (v) => `${+(100 * v).toPrecision(3)}%` : undefined, yTicks: ticks(...plot.domain, 3) });
      plot.keys.forEach(([key], k) => {
        plot.lines[k].setAttribute("d", trace(current.points.map((p) => [plot.chart.x(p.step), plot.chart.y(number(p[key]))])));
        place(plot.dots[k], plot.chart.x(now.step), plot.chart.y(number(now[key])));
      });
      const { t, b } = plot.chart.area;
      const x = plot.chart.x(now.step);
      for (const [key, v] of Object.entries({ x1: x, x2: x, y1: t, y2: b })) plot.head.setAttribute(key, v.toFixed(1));
      say(plot.title, `${plot.caption}, step ${now.step}: ${plot.keys.map(([key, name]) => `${name} ${plot.share ? percent(number(now[key])) : brief(number(now[key]))}`).join(", ")}.`);
    }
    tiles.gold.value(brief(now.gold));
    tiles.kl.value(brief(now.kl));
    if (tiles.gap) tiles.gap.value(Number.isFinite(most) ? brief(most - now.gold) : "–");
    if (tiles.broken) tiles.broken.value(Number.isFinite(now.broken) ? percent(now.broken) : "–");
    if (tiles.proxy) tiles.proxy.value(brief(number(now.proxy)));
    const rest = top === end ? "Gold rises to the end of training." : `The most gold is ${brief(top.gold)} at step ${top.step} (KL ${brief(top.kl)} nats); the end has ${brief(end.gold)} at KL ${brief(end.kl)}.`;
    const fooled = proxy && Number.isFinite(top.proxy) && Number.isFinite(end.proxy) && top !== end ? ` Meanwhile the ${proxyName} went from ${brief(top.proxy)} to ${brief(end.proxy)}.` : "";
    say(verdict, rest + fooled);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, beta, step, run: current, now, most } }));
  }

  fill();
  whenWide(gold.chart.svg, update);
}

define("alignlab-overoptimization", overoptimization, { frontierAt, pointAt, best });
