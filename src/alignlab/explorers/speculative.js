// <alignlab-speculative>: speculative decoding replayed pass by pass on real text: drafted, kept, rejected, and what it saves.
//
// Data: {pieces: [text], prompts: [{title, said: [piece], drafts: {name: [[piece]]}}], drafts: [{name, title, cost, once, longest}],
// pass: [time of a pass over 1, 2, ... tokens, in passes over 1], ms: of such a pass}. drafts[name][k] are the tokens that the draft
// would guess after k tokens of `said`: greedy text is the same with every draft, so every draft length can be replayed exactly.
// cost: of one draft step; once: of one proposal; both in passes. May be added: start: {prompt, draft, length}.

/** The passes that write `said` with drafts of at most `length` tokens: [{at, drafted, accepted, token}]. */
function replay(said, guesses, length) {
  const passes = [];
  for (let at = 0; at < said.length; ) {
    const drafted = (guesses[at] || []).slice(0, Math.min(length, said.length - at - 1));
    let accepted = 0;
    while (accepted < drafted.length && drafted[accepted] === said[at + accepted]) accepted += 1;
    passes.push({ at, drafted, accepted, token: said[at + accepted] });
    at += accepted + 1;
  }
  return passes;
}

/** Tokens per pass, share of checked guesses that stay, and time, in passes over one token. */
function summary(passes, pass, draft) {
  const sum = (f) => passes.reduce((total, one) => total + f(one), 0);
  const tokens = sum((one) => one.accepted + 1);
  const tried = sum((one) => Math.min(one.accepted + 1, one.drafted.length));
  const time = sum((one) => pass[Math.min(one.drafted.length, pass.length - 1)] + one.drafted.length * draft.cost + (one.drafted.length ? draft.once || 0 : 0));
  return { tokens, passes: passes.length, rate: tried ? sum((one) => one.accepted) / tried : NaN, time, speed: tokens / time };
}

/** (1 - a^(g+1)) / (1 - a): tokens per pass if each guess stays with probability a by itself. */
const expectedTokens = (a, g) => Array.from({ length: g + 1 }, (_, k) => a ** k).reduce((x, y) => x + y, 0);

function speculativeReplay(host, root, data) {
  const start = data.start || {};
  const words = (ids) => ids.map((id) => data.pieces[id]);
  const furthest = Math.max(...data.drafts.map((draft) => draft.longest));
  let prompt = data.prompts[start.prompt] || data.prompts[0];
  let draft = data.drafts.find((one) => one.name === start.draft) || data.drafts[0];
  let length = start.length ?? Math.min(4, furthest);
  let token = Math.min(10, prompt.said.length);
  let timer = 0;

  const reach = () => Math.min(length, draft.longest);
  const passesOf = (g) => replay(prompt.said, prompt.drafts[draft.name], g);
  const most = Math.max(...data.prompts.map((one) => one.said.length));

  const pickId = `al-text-${++serial}`;
  const select = h("select", { id: pickId, onchange: () => { prompt = data.prompts[+select.value]; stop(); update(); } },
    data.prompts.map((one, k) => h("option", { value: k, selected: one === prompt }, one.title)));
  const drafts = choice({ label: "Draft", options: data.drafts.map((one) => [one.name, one.title]), value: draft.name,
    onchoose: (name) => { draft = data.drafts.find((one) => one.name === name); stop(); update(); } });
  const lengthSlider = slider({ label: "Draft length", values: range(0, furthest, 1), value: length, show: (v) => String(v),
    speak: (v) => (v === 0 ? "0: plain decoding" : `${v} tokens for each pass`), oninput: (v) => { length = v; update(); } });
  const tokenSlider = slider({ label: "Written up to", values: range(1, most, 1), value: token, show: (v) => String(v), speak: (v) => `token ${v}`,
    oninput: (v) => { token = v; stop(); update(); } });

  const move = (by) => {
    const passes = passesOf(reach());
    const now = passes.findIndex((one) => token <= one.at + one.accepted + 1);
    const to = passes[Math.max(0, Math.min(passes.length - 1, (now < 0 ? passes.length - 1 : now) + by))];
    token = to.at + to.accepted + 1;
    tokenSlider.set(token);
    update();
    return to !== passes[passes.length - 1];
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    say(play, "Play");
  };
  const go = () => {
    if (timer) return stop();
    if (token >= prompt.said.length) { token = 1; tokenSlider.set(1); update(); }
    say(play, "Pause");
    timer = setInterval(() => { if (!host.isConnected || !move(1)) stop(); }, 650);
  };
  const play = h("button", { type: "button", class: "action play", onclick: go }, "Play");
  const back = h("button", { type: "button", class: "chip", onclick: () => { stop(); move(-1); } }, "Pass back");
  const next = h("button", { type: "button", class: "chip", onclick: () => { stop(); move(1); } }, "Next pass");

  const written = h("div", { class: "context written", tabindex: 0, role: "region", "aria-label": "Text written so far" });
  const now = h("div", { class: "now-pass", role: "group", "aria-label": "This pass" });
  const told = h("p", { class: "told", role: "status" });
  const tiles = { tokens: tile("Tokens per pass", ""), rate: tile("Guesses that stay", "of checked"), passes: tile("Passes", "of the model"), speed: tile("Speed-up", "times plain") };

  const chart = axes({ height: 250, left: 44, attributes: { class: "gain", role: "img" } });
  const title = s("title");
  const others = data.drafts.map(() => s("path", { class: "other" }));
  const line = s("path", { class: "own" });
  const formula = s("path", { class: "formula" });
  const level = s("line", { class: "level" });
  const dot = s("circle", { class: "here", r: 5.5 });
  chart.svg.prepend(title);
  chart.marks.append(level, ...others, formula, line);
  chart.over.append(dot);

  const tries = invitation(host, data, "Lengthen the draft until the speed-up falls; then try another draft.");
  const key = (name, text) => h("span", null, h("i", { class: `key ${name}` }), text);
  root.append(h("section", { class: "explorer speculative", "aria-label": "Explorer: speculative decoding, pass by pass" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: pickId }, "Answer to"), select), drafts.root),
    tries ? h("p", { class: "try" }, h("b", null, "Try: "), tries) : null,
    h("div", { class: "knobs" }, lengthSlider.root, tokenSlider.root),
    written,
    h("div", { class: "pass-row" }, now, h("div", { class: "buttons" }, back, next, play)),
    told,
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    h("figure", { class: "gain-figure" },
      h("figcaption", null, h("span", null, "Speed-up over the draft length, for this text"),
        h("span", { class: "legend" }, key("own", "this draft"), key("other", "the others"), key("formula", "formula, with this share"))),
      chart.svg),
    h("footer", null, `Greedy text of ${data.model}, real guesses. Times from measured passes (${Math.round(data.ms)} ms over one token) and draft steps.`)));

  /** A token of the text, in the colour of who wrote it. */
  const piece = (text, kind) => h("span", { class: `piece ${kind}` }, tokenText(text));
  let drawn = "";

  function update() {
    const began = performance.now();
    token = Math.min(token, prompt.said.length);
    if (tokenSlider.get() > prompt.said.length) tokenSlider.set(token);
    const passes = passesOf(reach());
    const found = passes.findIndex((one) => token <= one.at + one.accepted + 1);
    const shown = found < 0 ? passes.length - 1 : found;
    const one = passes[shown];
    const state = JSON.stringify([data.prompts.indexOf(prompt), draft.name, reach(), shown]);
    if (state !== drawn) {
      drawn = state;
      const kinds = [];
      for (const p of passes.slice(0, shown + 1)) kinds.push(...Array(p.accepted).fill("kept"), "given");
      written.replaceChildren(...words(prompt.said.slice(0, kinds.length)).map((text, k) => piece(text, kinds[k] + (k >= one.at ? " fresh" : ""))));
      written.scrollTop = written.scrollHeight;
      const guessed = words(one.drafted).map((text, k) => h("span", { class: `guess ${k < one.accepted ? "kept" : k === one.accepted ? "rejected" : "lost"}` }, tokenText(text)));
      const own = h("span", { class: "guess given" }, tokenText(data.pieces[one.token]));
      now.replaceChildren(...(guessed.length ? guessed : [h("span", { class: "none" }, "no guess")]), h("span", { class: "arrow", "aria-hidden": "true" }, "→"), own);
      const why = !one.drafted.length ? "The model writes one token, as in plain decoding."
        : one.accepted === one.drafted.length ? `All ${one.drafted.length} stay, and the pass gives one more: ${one.accepted + 1} tokens.`
        : `${one.accepted || "None"} of ${one.drafted.length} ${one.accepted === 1 ? "stays" : "stay"}; then the model puts its own token. The rest is thrown away.`;
      say(told, `Pass ${shown + 1} of ${passes.length}. ${why}`);
    }
    const all = data.drafts.map((d) => range(0, furthest, 1).map((g) => summary(replay(prompt.said, prompt.drafts[d.name], Math.min(g, d.longest)), data.pass, d)));
    const mine = all[data.drafts.indexOf(draft)];
    const here = mine[length];
    const expected = range(0, furthest, 1).map((g) => { const k = Math.min(g, draft.longest); return (k && Number.isFinite(here.rate) ? expectedTokens(here.rate, k) : 1) / (data.pass[k] + k * draft.cost + (k ? draft.once || 0 : 0)); });
    tiles.tokens.value(fixed(here.tokens / here.passes, 2));
    tiles.rate.value(Number.isFinite(here.rate) ? percent(here.rate) : "–");
    tiles.passes.value(String(here.passes));
    tiles.speed.value(fixed(here.speed, 2));
    const top = Math.max(1.2, ...all.flat().map((x) => x.speed), ...expected);
    chart.frame({ x: [0, furthest], y: [0, 1.08 * top], xName: "draft length", yName: "speed-up", xTicks: range(0, furthest, 1) });
    const path = (values) => trace(values.map((v, g) => [chart.x(g), chart.y(v)]));
    data.drafts.forEach((d, k) => others[k].setAttribute("d", d === draft ? "" : path(all[k].map((x) => x.speed))));
    line.setAttribute("d", path(mine.map((x) => x.speed)));
    formula.setAttribute("d", length ? path(expected) : "");
    for (const [name, v] of Object.entries({ x1: chart.area.l, x2: chart.area.r, y1: chart.y(1), y2: chart.y(1) })) level.setAttribute(name, v);
    dot.setAttribute("cx", chart.x(length));
    dot.setAttribute("cy", chart.y(here.speed));
    say(title, `${draft.title}: ${mine.map((x, g) => `length ${g}: ${fixed(x.speed, 2)}`).join(", ")} times plain decoding.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, pass: one, here } }));
  }

  whenWide(chart.svg, update);
}

define("alignlab-speculative", speculativeReplay, { replay, summary, expectedTokens });
