// <alignlab-grammar_mask>: an answer written under a grammar, one token at a time, on the model's own next-token lists.

/**
 * A token's probability when every forbidden logit is lowered by `penalty` nats: allowed tokens share what is left.
 * mass: probability of all allowed tokens together. An infinite penalty is the mask.
 */
function after(p, ok, mass, penalty) {
  const leak = Math.exp(-penalty);
  return (p * (ok ? 1 : leak)) / (mass + (1 - mass) * leak);
}

const LIST = 12;
const PENALTIES = [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, Infinity];

function grammarMask(host, root, data) {
  const scenes = data.scenes;
  let at = Math.max(0, scenes.findIndex((scene) => scene.name === (host.getAttribute("scene") || data.start?.scene)));
  let step = Math.min(data.start?.step ?? 0, scenes[at].steps.length - 1);
  let penalty = Infinity;
  const longest = Math.max(...scenes.map((scene) => scene.steps.length));

  const pickId = `al-scene-${++serial}`;
  const select = h("select", { id: pickId, onchange: () => { at = +select.value; step = 0; stepSlider.set(0); update(true); } },
    scenes.map((scene, i) => h("option", { value: i, selected: i === at }, scene.title)));
  const go = (to) => { step = Math.max(0, Math.min(scenes[at].steps.length - 1, to)); stepSlider.set(step); update(); };
  const stepSlider = slider({ label: "Step", values: range(0, longest - 1, 1), value: step, show: (v) => String(v + 1),
    oninput: (v) => { step = Math.min(v, scenes[at].steps.length - 1); update(); } });
  const penaltySlider = slider({ label: "Penalty on forbidden (nats)", values: PENALTIES, value: penalty,
    show: (v) => (v === Infinity ? "∞" : String(v)), speak: (v) => (v === Infinity ? "infinite: the mask" : `${v} nats`), oninput: (v) => { penalty = v; update(); } });
  const back = h("button", { type: "button", class: "chip", onclick: () => go(step - 1) }, "Back");
  const next = h("button", { type: "button", class: "action", onclick: () => go(step + 1) }, "Next token");
  const first = h("button", { type: "button", class: "chip", onclick: () => go(0) }, "To the start");
  const last = h("button", { type: "button", class: "chip", onclick: () => go(longest) }, "To the end");

  const message = h("p", { class: "message" });
  const written = h("div", { class: "context", tabindex: 0, role: "group", "aria-label": "The answer so far, token by token" });
  const may = h("p", { class: "may" });

  const rows = Array.from({ length: LIST }, () => {
    const parts = { name: h("span", { class: "name", role: "rowheader" }), ghost: h("i", { class: "ghost" }), bar: h("i", { class: "bar" }), rule: h("span", { class: "rule" }),
      was: h("span", { class: "was", role: "cell" }), now: h("span", { class: "now", role: "cell" }), times: h("span", { class: "times", role: "cell" }) };
    parts.row = h("div", { class: "row", role: "row" }, parts.name, h("span", { class: "lane", role: "cell" }, parts.ghost, parts.bar, parts.rule), parts.was, parts.now, parts.times);
    return parts;
  });
  const others = ["allowed", "forbidden"].map((kind) => {
    const parts = { label: h("span", { class: "name", role: "rowheader" }), was: h("span", { class: "was", role: "cell" }), now: h("span", { class: "now", role: "cell" }) };
    parts.row = h("div", { class: `row rest ${kind}`, role: "row" }, parts.label, h("span", { class: "lane", role: "cell" }), parts.was, parts.now, h("span", { class: "times", role: "cell" }));
    return parts;
  });
  const list = h("div", { class: "bars", role: "table", "aria-label": "The next-token list before and after the mask" },
    h("div", { class: "row head", role: "row" }, h("span", { class: "name", role: "columnheader" }, "next token"), h("span", { class: "lane", role: "columnheader", "aria-label": "bar" }),
      h("span", { class: "was", role: "columnheader" }, "model"), h("span", { class: "now", role: "columnheader" }, "here"), h("span", { class: "times", role: "columnheader" }, "taken")),
    h("div", { class: "stage", role: "rowgroup" }, rows.map((parts) => parts.row)), others.map((parts) => parts.row));

  const tiles = { state: tile("State", ""), allowed: tile("Allowed", `of ${count(data.vocabulary)}`), mass: tile("Their share (model)", ""), leak: tile("Forbidden drawn here", "") };
  const chart = axes({ height: 150, left: 46, bottom: 38, attributes: { class: "shares", role: "img" } });
  const title = s("title");
  const line = s("path", { class: "line" });
  const head = s("line", { class: "head" });
  const dot = s("circle", { class: "here", r: 5 });
  chart.svg.prepend(title);
  chart.marks.append(head, line);
  chart.over.append(dot);
  const verdict = h("p", { class: "verdict", role: "status" });
  const attempt = invitation(host, data);

  root.append(h("section", { class: "explorer grammar", "aria-label": "Explorer: the grammar mask" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: pickId }, "Answer"), select), h("div", { class: "buttons" }, first, back, next, last)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    message, written,
    h("div", { class: "pulls" }, stepSlider.root, penaltySlider.root),
    may,
    h("div", { class: "figures" }, Object.values(tiles).map((t) => t.root)),
    verdict,
    list,
    h("figure", null, h("figcaption", null, "Share of the model's probability that the mask allows, step by step"), chart.svg),
    h("footer", null, `${data.model}, greedy under the mask. Real probabilities; “here” lowers each forbidden logit by the penalty and renormalizes.`)));

  const label = (token) => (token.end ? [h("em", null, "end")] : tokenText(token.text));

  function readWritten() {
    const { steps } = scenes[at];
    written.replaceChildren(...steps.slice(0, step).flatMap((one) => [h("span", { class: "piece" }, label(one.tokens[one.taken])), h("wbr")]), h("span", { class: "slot" }, "\u200b"));
    written.scrollTop = written.scrollHeight;
  }

  function update(fresh) {
    const began = performance.now();
    const scene = scenes[at];
    const { steps } = scene;
    const now = steps[step];
    say(message, scene.message);
    readWritten();
    say(may, `The automaton may read: ${now.may}${now.end ? "; and it may end" : ""}`);
    back.disabled = step === 0;
    next.disabled = step === steps.length - 1;
    const p = now.tokens.map((token) => after(token.p, token.ok, now.mass, penalty));
    const widest = Math.max(...p, ...now.tokens.map((token) => token.p), 1e-9);
    rows.forEach((parts, r) => {
      const token = now.tokens[r];
      parts.row.hidden = !token;
      if (!token) return;
      parts.name.replaceChildren(h("span", { class: "token" }, label(token)));
      parts.row.classList.toggle("gone", !token.ok);
      parts.ghost.style.width = `${((100 * token.p) / widest).toFixed(2)}%`;
      parts.bar.style.width = `${((100 * p[r]) / widest).toFixed(2)}%`;
      say(parts.rule, token.ok ? "" : "forbidden");
      parts.rule.style.transform = `translateX(${Math.min(45, (100 * token.p) / widest)}%)`;
      say(parts.was, percent(token.p));
      say(parts.now, percent(p[r]));
      say(parts.times, r === now.taken ? "●" : "");
    });
    const shown = now.tokens.slice(0, LIST);
    const ok = shown.filter((token) => token.ok);
    const sum = (tokens) => tokens.reduce((total, token) => total + token.p, 0);
    const left = [Math.max(0, now.mass - sum(ok)), Math.max(0, 1 - now.mass - sum(shown.filter((token) => !token.ok)))];
    const kinds = [now.allowed - ok.length, data.vocabulary - now.allowed - (shown.length - ok.length)];
    others.forEach((parts, k) => {
      say(parts.label, `${count(kinds[k])} ${k ? "forbidden" : "allowed"}`);
      say(parts.was, percent(kinds[k] ? left[k] : 0));
      say(parts.now, percent(kinds[k] ? after(left[k], !k, now.mass, penalty) : 0));
    });
    const leak = after(1 - now.mass, false, now.mass, penalty);
    tiles.state.value(`${now.state} / ${scene.states}`);
    tiles.allowed.value(count(now.allowed));
    tiles.mass.value(percent(now.mass));
    tiles.leak.value(percent(leak));
    const wish = now.tokens[0];
    say(verdict, now.allowed === 1 ? "One token is allowed: the model is not asked." : wish.ok ? "The token that the model likes best is allowed: the mask changes little." : `The model would rather write ${wish.end ? "the end" : `“${wish.text.trim() || "a space"}”`} (${percent(wish.p)}); that cannot lead to an answer of this form.`);
    chart.frame({ x: [1, Math.max(2, steps.length)], y: [0, 1], yTicks: [0, 0.5, 1], yText: (v) => `${100 * v}%`, xName: "step" });
    line.setAttribute("d", trace(steps.map((one, k) => [chart.x(k + 1), chart.y(one.mass)])));
    const [x, y] = [chart.x(step + 1), chart.y(now.mass)];
    for (const [key, v] of Object.entries({ x1: x, x2: x, y1: chart.area.t, y2: chart.area.b })) head.setAttribute(key, v.toFixed(1));
    dot.setAttribute("cx", x.toFixed(1));
    dot.setAttribute("cy", y.toFixed(1));
    say(title, `Step ${step + 1}: the mask allows ${percent(now.mass)} of the model's probability.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, step, penalty, p, leak, fresh: Boolean(fresh) } }));
  }

  whenWide(chart.svg, () => update(true));
}

define("alignlab-grammar_mask", grammarMask, { after });
