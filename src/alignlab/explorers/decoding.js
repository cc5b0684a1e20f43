// <alignlab-decoding>: from the logits of the next token to the distribution that is sampled from.

/** Stages in the order in which transformers' generate applies them. */
const RULES = ["top-k", "top-p", "min-p"];
const OFF = { penalty: 1, temperature: 1, topK: Infinity, topP: 1, minP: 0 };

/**
 * A prompt's tokens as columns, made once. Each of the best tokens, and each token that the context holds, stands for
 * itself; the rest of the vocabulary is grouped by rank: a group is `size` tokens that share one logit.
 */
function prepare(prompt) {
  const tail = prompt.tail || { size: [], logit: [] };
  const explicit = prompt.logit.length;
  const size = Float64Array.from([...prompt.logit.map(() => 1), ...tail.size]);
  const logit = Float64Array.from([...prompt.logit, ...tail.logit]);
  const seen = new Uint8Array(size.length);
  for (const i of prompt.seen || []) seen[i] = 1;
  const n = size.length;
  return { prompt, explicit, n, size, logit, seen, order: Uint32Array.from({ length: n }, (_, i) => i),
    value: new Float64Array(n), heat: new Float64Array(n), kept: new Float64Array(n), p: new Float64Array(n), rule: new Array(n) };
}

/**
 * The distribution after repetition penalty, temperature, top-k, top-p and min-p, in this order.
 * Fills, per entry: heat (unnormalized probability of one token), kept (how many of its tokens stay), p (probability of
 * the entry), rule (which rule cut it, or null); gives entropy in nats, tokens kept, and what each stage left.
 */
function distribution(columns, settings) {
  const { n, size, logit, seen, order, value, heat, kept, p, rule } = columns;
  const { penalty, temperature, topK, topP, minP } = { ...OFF, ...settings };
  for (let i = 0; i < n; i++) value[i] = !seen[i] ? logit[i] : logit[i] < 0 ? logit[i] * penalty : logit[i] / penalty;
  order.sort((a, b) => value[b] - value[a] || a - b);
  const top = value[order[0]];
  const greedy = temperature === 0;
  for (let i = 0; i < n; i++) {
    heat[i] = greedy ? (i === order[0] ? 1 : 0) : Math.exp((value[i] - top) / temperature);
    kept[i] = greedy && i !== order[0] ? 0 : size[i];
    rule[i] = kept[i] ? null : "greedy";
  }
  const total = () => {
    let sum = 0;
    let tokens = 0;
    for (let i = 0; i < n; i++) {
      sum += heat[i] * kept[i];
      tokens += kept[i];
    }
    return { sum, tokens };
  };
  const before = total();
  const stages = [];
  const cut = (name, keep) => {
    const last = total();
    let above = 0; // tokens above this entry
    let mass = 0; // their probability
    for (let r = 0; r < n; r++) {
      const i = order[r];
      if (!kept[i]) continue;
      const stay = Math.max(above === 0 ? 1 : 0, Math.min(kept[i], keep(i, above, mass / last.sum, heat[i] / last.sum)));
      above += kept[i];
      mass += kept[i] * heat[i];
      if (stay < kept[i]) {
        kept[i] = stay;
        if (stay === 0) rule[i] = name;
      }
    }
    const now = total();
    stages.push({ name, tokens: now.tokens, lost: 1 - now.sum / last.sum });
  };
  if (!greedy) {
    // Keep every token at least as likely as the k-th, ties included.
    const kth = Number.isFinite(topK) ? at(columns, topK) : -Infinity;
    cut("top-k", (i, above) => (size[i] === 1 ? (value[i] >= kth ? 1 : 0) : Math.max(0, topK - above)));
    // Keep a token while the tokens above it hold less than p: the one that crosses p stays.
    cut("top-p", (i, above, mass, each) => (topP >= 1 ? Infinity : mass >= topP ? 0 : Math.ceil((topP - mass) / each)));
    // Keep a token at least min-p times as likely as the likeliest; of a group, the share whose logits reach so far.
    const least = top + temperature * Math.log(minP);
    cut("min-p", (i) => (minP === 0 ? Infinity : size[i] === 1 ? (heat[i] < minP * heat[order[0]] ? 0 : 1) : reaching(columns, i, least)));
  } else for (const name of RULES) stages.push({ name, tokens: 1, lost: 0 });
  const after = total();
  let entropy = 0;
  for (let i = 0; i < n; i++) {
    const each = heat[i] / after.sum;
    p[i] = kept[i] * each;
    if (p[i] > 0) entropy -= p[i] * Math.log(each);
  }
  const lost = greedy ? null : 1 - after.sum / before.sum;
  return { entropy, tokens: after.tokens, lost, stages, before: before.sum, after: after.sum, top };
}

/** How many tokens of a group have a logit of at least `least`; a group reaches half-way to its neighbours. */
function reaching({ size, logit, explicit, n }, i, least) {
  const below = i + 1 < n ? (logit[i] - logit[i + 1]) / 2 : 0;
  const above = i > explicit ? (logit[i - 1] - logit[i]) / 2 : below;
  const share = (logit[i] + above - least) / (above + below || 1e-12);
  return Math.round(size[i] * Math.max(0, Math.min(1, share)));
}

/** The value of the k-th token in order, whatever groups stand before it. */
function at({ order, size, value, n }, k) {
  let above = 0;
  for (let r = 0; r < n; r++) {
    above += size[order[r]];
    if (above >= k) return value[order[r]];
  }
  return -Infinity;
}

/** One draw: the entry in which u, uniform in [0, 1), falls. */
function draw({ order, p, n }, u) {
  let sum = 0;
  let last = order[0];
  for (let r = 0; r < n; r++) {
    const i = order[r];
    if (p[i] === 0) continue;
    last = i;
    sum += p[i];
    if (u < sum) return i;
  }
  return last;
}

const ROWS = 12;
const ROW = 30;
const PLOT = { left: 44, right: 14, top: 18, bottom: 30, height: 190, floor: -9 };

const PRESETS = [
  ["As the model has it", {}],
  ["Greedy", { temperature: 0 }],
  ["0.7, top-p 0.9", { temperature: 0.7, topP: 0.9 }],
  ["1.5, min-p 0.1", { temperature: 1.5, minP: 0.1 }],
  ["2.0, nothing cut", { temperature: 2 }],
];

function decoding(host, root, data) {
  const vocabulary = data.vocabulary;
  const prompts = data.prompts.map(prepare);
  const raw = prompts.map((columns) => {
    const { entropy } = distribution(columns, OFF);
    return { entropy, p: Float64Array.from(columns.p), each: Float64Array.from(columns.p, (p, i) => p / columns.size[i]), order: Uint32Array.from(columns.order) };
  });
  const start = { ...OFF, ...(data.start || {}) };
  let settings = { ...start };
  let at = Math.max(0, data.prompts.findIndex((prompt) => prompt.name === (host.getAttribute("prompt") || data.start?.prompt)));
  const home = at;
  let result = null;
  let tally = new Map();
  let drawn = 0;
  let random = null;
  let width = 640;

  // Controls, in the order of the operations.
  const change = (key) => (value) => {
    settings = { ...settings, [key]: value };
    restart();
    update();
  };
  const off = (isOff, digits) => (v) => (isOff(v) ? "off" : fixed(v, digits));
  const control = {
    penalty: slider({ label: "Repetition penalty", values: range(1, 2, 0.05), value: settings.penalty, show: off((v) => v === 1, 2), oninput: change("penalty") }),
    temperature: slider({ label: "Temperature", values: range(0, 2, 0.05), value: settings.temperature, show: (v) => (v === 0 ? "greedy" : fixed(v, 2)), oninput: change("temperature") }),
    topK: slider({ label: "Top-k", values: [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, Infinity], value: settings.topK,
      show: (v) => (v === Infinity ? "off" : String(v)), oninput: change("topK") }),
    topP: slider({ label: "Top-p", values: range(0.05, 1, 0.01), value: settings.topP, show: off((v) => v === 1, 2), oninput: change("topP") }),
    minP: slider({ label: "Min-p", values: range(0, 0.5, 0.01), value: settings.minP, show: off((v) => v === 0, 2), oninput: change("minP") }),
  };
  const steps = h("ol", { class: "steps", "aria-label": "Operations, in the order in which they are applied" },
    Object.values(control).map((c, i) => h("li", null, h("span", { class: "number", "aria-hidden": "true" }, i + 1), c.root)));

  const promptId = `al-prompt-${++serial}`;
  const seedId = `al-seed-${++serial}`;
  const groups = [...new Set(data.prompts.map((prompt) => prompt.group))];
  const select = h("select", { id: promptId, onchange: () => { at = +select.value; restart(); update(true); } },
    groups.map((group) => h("optgroup", { label: group }, data.prompts.map((prompt, i) => prompt.group === group
      ? h("option", { value: i, selected: i === at }, prompt.title) : null))));
  const presets = h("div", { class: "presets", role: "group", "aria-label": "Settings to start from" },
    PRESETS.map(([name, values]) => h("button", { type: "button", class: "chip", onclick: () => adopt({ ...OFF, ...values }) }, name)));
  const seed = h("input", { id: seedId, type: "number", min: 0, max: 99999, step: 1, value: data.start?.seed ?? 1, inputmode: "numeric", oninput: () => { restart(); update(); } });
  const drawButton = (n) => h("button", { type: "button", class: n === 1 ? "action" : "action quiet", onclick: () => sample(n) }, n === 1 ? "Sample 1" : `Sample ${n}`);
  const tallied = h("p", { class: "tallied" });
  const sampling = h("div", { class: "sampling" },
    h("div", { class: "buttons" }, drawButton(1), drawButton(100), h("button", { type: "button", class: "chip reset", onclick: reset }, "Reset")),
    h("div", { class: "seeded" }, h("label", { for: seedId }, "Seed"), seed, tallied));

  // The context, token by token, and the place where the next one goes.
  const slot = h("span", { class: "slot" });
  const context = h("div", { class: "context", tabindex: 0, role: "group", "aria-label": "What the model has read, token by token" });

  // The likeliest tokens.
  const rows = Array.from({ length: ROWS }, () => {
    const parts = { name: h("span", { class: "name", role: "rowheader" }), ghost: h("i", { class: "ghost" }),
      bar: h("i", { class: "bar" }), mark: h("i", { class: "mark" }), rule: h("span", { class: "rule" }),
      was: h("span", { class: "was", role: "cell" }), now: h("span", { class: "now", role: "cell" }), times: h("span", { class: "times", role: "cell" }) };
    parts.row = h("div", { class: "row", role: "row" }, parts.name,
      h("span", { class: "lane", role: "cell" }, parts.ghost, parts.bar, parts.mark, parts.rule), parts.was, parts.now, parts.times);
    return parts;
  });
  const rest = { label: h("span", { class: "name", role: "rowheader" }), ghost: h("i", { class: "ghost" }), bar: h("i", { class: "bar" }), mark: h("i", { class: "mark" }),
    was: h("span", { class: "was", role: "cell" }), now: h("span", { class: "now", role: "cell" }), times: h("span", { class: "times", role: "cell" }) };
  const axis = h("div", { class: "axis", "aria-hidden": "true" }, Array.from({ length: 5 }, () => h("span")));
  const grid = h("div", { class: "grid", "aria-hidden": "true" }, Array.from({ length: 5 }, () => h("i")));
  const bars = h("div", { class: "bars", role: "table", "aria-label": "The likeliest next tokens" },
    h("div", { class: "row head", role: "row" }, h("span", { class: "name", role: "columnheader" }, "next token"),
      h("span", { class: "lane", role: "columnheader", "aria-label": "bar" }, axis), h("span", { class: "was", role: "columnheader" }, "model"),
      h("span", { class: "now", role: "columnheader" }, "here"), h("span", { class: "times", role: "columnheader" }, "drawn")),
    h("div", { class: "stage", role: "rowgroup" }, grid, rows.map((parts) => parts.row)),
    h("div", { class: "row rest", role: "row" }, rest.label, h("span", { class: "lane", role: "cell" }, rest.ghost, rest.bar, rest.mark), rest.was, rest.now, rest.times));

  // What it amounts to.
  const figure = (label, unit) => {
    const note = h("small");
    const { value, line } = quantity(unit);
    return { value, note, root: h("div", { class: "figure" }, h("span", null, label), line, note) };
  };
  const figures = { entropy: figure("Entropy", "nats"), effective: figure("Effective tokens", ["e", h("sup", null, "H")]), kept: figure("Kept", "tokens"), lost: figure("Cut away", "of the mass") };

  // The whole vocabulary, by rank.
  const plot = s("svg", { class: "plot", height: PLOT.height, role: "img" });
  const plotText = s("title");
  const frame = s("g", { class: "frame" });
  const line = { raw: s("path", { class: "raw" }), area: s("path", { class: "area" }), gone: s("path", { class: "gone" }), now: s("path", { class: "final" }) };
  const cuts = RULES.map((name) => ({ name, line: s("line", { class: "cut" }), text: s("text", { class: "cut" }, name) }));
  plot.append(plotText, frame, line.raw, line.area, line.gone, line.now, ...cuts.flatMap((c) => [c.line, c.text]));

  const spoken = h("p", { class: "unseen", role: "status" });
  const attempt = invitation(host, data);
  root.append(h("section", { class: "explorer decoding", "aria-label": "Explorer: the next token" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: promptId }, "Prompt"), select), presets),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    context,
    h("div", { class: "body" }, h("div", { class: "left" }, bars), h("div", { class: "right" }, steps, sampling),
      h("div", { class: "figures" }, Object.values(figures).map((f) => f.root)),
      h("figure", { class: "ranks" }, h("figcaption", null, h("span", null, `All ${count(vocabulary)} tokens, from the likeliest to the least likely`),
        h("span", { class: "legend" }, h("span", null, h("i", { class: "key raw" }), "the model"), h("span", null, h("i", { class: "key final" }), "here"), h("span", null, h("i", { class: "key gone" }), "cut"))), plot)),
    h("footer", null, `${data.model}. Real logits; the order is that of `, h("code", null, "generate"), " in transformers: repetition penalty, temperature, top-k, top-p, min-p."),
    spoken));

  function adopt(values) {
    settings = { ...settings, ...values };
    for (const [key, c] of Object.entries(control)) c.set(settings[key]);
    restart();
    update();
  }

  function reset() {
    at = home;
    select.value = at;
    seed.value = data.start?.seed ?? 1;
    adopt(start);
    update(true);
  }

  function restart() {
    tally = new Map();
    drawn = 0;
    random = mulberry32(Number(seed.value) || 0);
    slot.replaceChildren("\u200b"); // an empty box would stand on another baseline
    slot.classList.remove("full");
  }

  function sample(n) {
    let i = 0;
    for (let k = 0; k < n; k++) {
      i = draw(prompts[at], random());
      tally.set(i, (tally.get(i) || 0) + 1);
    }
    drawn += n;
    const { prompt, explicit } = prompts[at];
    slot.replaceChildren(...(i < explicit ? tokenText(prompt.text[i]) : ["a rare token"]));
    slot.classList.add("full");
    update();
  }

  function readContext() {
    const { prompt } = prompts[at];
    context.replaceChildren(...prompt.context.flatMap((text) => {
      const special = /^<\|.*\|>$/.test(text);
      return [h("span", { class: special ? "piece special" : "piece" }, tokenText(text)), h("wbr")];
    }), slot);
    context.scrollTop = context.scrollHeight;
  }

  function update(fresh) {
    const began = performance.now();
    const columns = prompts[at];
    const model = raw[at];
    result = distribution(columns, settings);
    if (fresh) readContext();
    context.classList.toggle("penalized", settings.penalty > 1);
    drawBars(columns, model);
    drawFigures(model);
    drawRanks(columns, model);
    speak(columns);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, settings, result } }));
  }

  function drawBars(columns, model) {
    const { explicit, order, p, rule, seen, prompt } = columns;
    const shown = [];
    for (let r = 0; r < columns.n && shown.length < ROWS; r++) if (order[r] < explicit) shown.push(order[r]);
    let widest = 0;
    for (const i of shown) widest = Math.max(widest, p[i], model.p[i], drawn >= 100 ? (tally.get(i) || 0) / drawn : 0);
    const full = [0.02, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24, 0.28, 0.32, 0.4, 0.48, 0.6, 0.8, 1].find((x) => x >= widest * 0.999);
    const across = (x) => `${(100 * Math.min(1, x / full)).toFixed(3)}%`;
    [...axis.children].forEach((label, i) => say(label, `${+((100 * full * i) / 4).toFixed(2)}%`));
    let restNow = 1;
    let restWas = 1;
    let restDrawn = drawn;
    rows.forEach((parts, r) => {
      const i = shown[r];
      parts.row.hidden = i === undefined;
      if (i === undefined) return;
      const cutBy = rule[i];
      const wanted = `${at} ${i}`;
      if (parts.shows !== wanted) {
        parts.shows = wanted;
        parts.name.replaceChildren(...(seen[i] ? [h("span", { class: "seen", title: "stands in the context" })] : []), h("span", { class: "token" }, tokenText(prompt.text[i])));
        parts.row.title = `token ${prompt.id[i]}`;
      }
      parts.row.classList.toggle("gone", cutBy !== null);
      parts.row.classList.toggle("pressed", seen[i] === 1 && settings.penalty > 1);
      parts.ghost.style.width = across(model.p[i]);
      parts.bar.style.width = across(p[i]);
      say(parts.rule, cutBy ? `cut: ${cutBy}` : "");
      parts.rule.style.transform = `translateX(${Math.min(45, (100 * model.p[i]) / full)}%)`;
      say(parts.was, percent(model.p[i]));
      say(parts.now, cutBy ? "0" : percent(p[i]));
      const times = tally.get(i) || 0;
      say(parts.times, drawn ? String(times) : "");
      parts.mark.hidden = !times;
      parts.mark.style.transform = `translateX(${across(times / Math.max(1, drawn))})`;
      restNow -= p[i];
      restWas -= model.p[i];
      restDrawn -= times;
    });
    restNow = restNow < 1e-12 ? 0 : restNow;
    say(rest.label, `${count(vocabulary - shown.length)} others`);
    rest.ghost.style.width = across(restWas);
    rest.bar.style.width = across(restNow);
    rest.mark.hidden = !restDrawn;
    rest.mark.style.transform = `translateX(${across(restDrawn / Math.max(1, drawn))})`;
    rest.ghost.classList.toggle("over", restWas > full);
    rest.bar.classList.toggle("over", restNow > full);
    say(rest.was, percent(Math.max(0, restWas)));
    say(rest.now, percent(restNow));
    say(rest.times, drawn ? String(restDrawn) : "");
    let apart = 0;
    if (drawn) for (let i = 0; i < columns.n; i++) apart += Math.abs((tally.get(i) || 0) / drawn - p[i]) / 2;
    say(tallied, drawn ? `${count(drawn)} drawn, total variation ${fixed(apart, 3)}` : "Same seed, same draws; ticks mark their shares");
  }

  function drawFigures(model) {
    const f = figures;
    f.entropy.value(fixed(Math.abs(result.entropy), 2));
    say(f.entropy.note, `model ${fixed(model.entropy, 2)}`);
    const effective = (H) => (Math.exp(H) < 100 ? fixed(Math.exp(H), 1) : count(Math.exp(H)));
    f.effective.value(effective(result.entropy));
    say(f.effective.note, `model ${effective(model.entropy)}`);
    f.kept.value(count(result.tokens));
    say(f.kept.note, `of ${count(vocabulary)}`);
    f.lost.value(result.lost === null ? "–" : percent(Math.max(0, result.lost < 1e-12 ? 0 : result.lost)));
    say(f.lost.note, result.lost === null ? "one token takes all" : `kept scaled by ${fixed(1 / (1 - result.lost), 2)}`);
    const active = { "top-k": settings.topK !== Infinity, "top-p": settings.topP < 1, "min-p": settings.minP > 0 };
    const hints = { "top-k": control.topK.hint, "top-p": control.topP.hint, "min-p": control.minP.hint };
    for (const stage of result.stages) say(hints[stage.name], active[stage.name] && settings.temperature > 0 ? `leaves ${count(stage.tokens)}` : "");
    for (const [name, c] of Object.entries(control)) c.root.classList.toggle("off", settings[name] === OFF[name]);
    const { seen, explicit } = prompts[at];
    let marked = 0;
    for (let i = 0; i < explicit; i++) marked += seen[i];
    say(control.penalty.hint, settings.penalty > 1 ? `on ${marked} tokens` : "");
  }

  function drawRanks(columns, model) {
    const { order, size, kept, heat } = columns;
    const right = width - PLOT.right;
    const bottom = PLOT.height - PLOT.bottom;
    const x = (rank) => PLOT.left + ((right - PLOT.left) * Math.log(rank)) / Math.log(vocabulary);
    const y = (p) => PLOT.top + ((bottom - PLOT.top) * Math.max(PLOT.floor, Math.log10(p))) / PLOT.floor;
    const trace = (sequence, value, from = 0) => {
      let path = "";
      let rank = 0;
      for (let r = 0; r < columns.n; r++) {
        const i = sequence[r];
        const middle = rank + (size[i] + 1) / 2;
        rank += size[i];
        if (r < from) continue;
        const v = value(i);
        if (v === null) break;
        path += `${path ? "L" : "M"}${x(middle).toFixed(1)} ${y(v).toFixed(1)}`;
        if (v < 1e-9) break;
      }
      return path;
    };
    let edge = 0;
    while (edge < columns.n && kept[order[edge]] > 0) edge++;
    line.raw.setAttribute("d", trace(model.order, (i) => model.each[i]));
    const now = trace(order, (i) => (kept[i] > 0 ? heat[i] / result.after : null));
    const last = Math.max(1, result.tokens);
    line.now.setAttribute("d", edge === 1 ? `M${PLOT.left} ${y(heat[order[0]] / result.after)}h3` : now);
    line.area.setAttribute("d", now ? `${now}L${x(last).toFixed(1)} ${bottom}L${PLOT.left} ${bottom}Z` : "");
    line.gone.setAttribute("d", edge < columns.n && settings.temperature > 0 ? trace(order, (i) => heat[i] / result.before, edge) : "");
    let previous = vocabulary;
    cuts.forEach(({ name, line: mark, text }, k) => {
      const stage = result.stages.find((one) => one.name === name);
      const bites = settings.temperature > 0 && stage.tokens < previous;
      mark.setAttribute("visibility", bites ? "visible" : "hidden");
      text.setAttribute("visibility", bites ? "visible" : "hidden");
      if (!bites) return;
      previous = stage.tokens;
      const at = x(stage.tokens) + 1;
      mark.setAttribute("x1", at); mark.setAttribute("x2", at);
      mark.setAttribute("y1", PLOT.top - 4); mark.setAttribute("y2", bottom);
      const end = at > right - 60;
      text.setAttribute("x", end ? at - 5 : at + 5);
      text.setAttribute("y", bottom - 36 + 14 * k); // below the curves, which fall to the right
      text.setAttribute("text-anchor", end ? "end" : "start");
      say(text, name);
    });
    const told = `${count(result.tokens)} of ${count(vocabulary)} tokens can be drawn; entropy ${fixed(Math.abs(result.entropy), 2)} nats.`;
    say(plotText, told);
  }

  function drawFrame() {
    const right = width - PLOT.right;
    const bottom = PLOT.height - PLOT.bottom;
    plot.setAttribute("viewBox", `0 0 ${width} ${PLOT.height}`);
    const nodes = [];
    for (const power of [0, -3, -6, -9]) {
      const y = PLOT.top + ((bottom - PLOT.top) * power) / PLOT.floor;
      nodes.push(s("line", { x1: PLOT.left, x2: right, y1: y, y2: y }),
        s("text", { x: PLOT.left - 8, y: y + 4, "text-anchor": "end" }, power === 0 ? "1" : "10", power === 0 ? null : s("tspan", { dy: -4, "font-size": 9 }, `−${-power}`)));
    }
    for (const rank of [1, 10, 100, 1000, 10000].filter((r) => r < vocabulary)) {
      const x = PLOT.left + ((right - PLOT.left) * Math.log(rank)) / Math.log(vocabulary);
      nodes.push(s("line", { class: "tick", x1: x, x2: x, y1: bottom, y2: bottom + 4 }), s("text", { x, y: bottom + 17, "text-anchor": rank === 1 ? "start" : "middle" }, rank === 1 ? "rank 1" : count(rank)));
    }
    nodes.push(s("text", { x: right, y: bottom + 17, "text-anchor": "end" }, width > 460 ? count(vocabulary) : ""));
    frame.replaceChildren(...nodes);
  }

  let telling = 0;
  function speak(columns) {
    clearTimeout(telling);
    telling = setTimeout(() => {
      const i = columns.order[0];
      const best = i < columns.explicit ? columns.prompt.text[i].trim() || "a space" : "a rare token";
      say(spoken, `${count(result.tokens)} tokens kept, entropy ${fixed(Math.abs(result.entropy), 2)} nats, likeliest ${best} with ${percent(columns.p[i])}.`);
    }, 500);
  }

  const measure = () => {
    const now = Math.round(plot.parentNode.clientWidth) || 640;
    if (now === width && frame.firstChild) return;
    width = now;
    drawFrame();
    drawRanks(prompts[at], raw[at]);
  };
  restart();
  update(true);
  measure();
  new ResizeObserver(measure).observe(plot.parentNode);
}

define("alignlab-decoding", decoding, { prepare, distribution, draw, mulberry32 });
