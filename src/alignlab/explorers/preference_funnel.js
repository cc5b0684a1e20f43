// <alignlab-preference_funnel>: from prompts to clean preference pairs; each filter's threshold, what it keeps and what it removes.
//
// Data: {prompts: [{id, text, near, exact}], pairs: [{prompt, chosen, rejected, score_chosen, score_rejected, chosen_tokens,
// rejected_tokens, leak, contradicts}]}. near: greatest similarity to an earlier prompt; exact: the same text came earlier;
// leak: overlap with held-out prompts; a pair's prompt is an id or the text itself. A filter whose field no item has is left
// out. May be added: source of a pair's scores; truth, 1 where chosen is really the better answer, -1 where rejected is, 0 where
// neither; start: {exact, near, contradictions, margin, ratio, leak}, the thresholds to begin with.

/** Longer by shorter, at least 1. */
const lengthRatio = (a, b) => Math.max(a, b) / Math.min(a, b);

/** In this order; `value` is what the threshold judges, `drops` whether an item goes. A value that is missing never goes. */
const FILTERS = [
  { key: "exact", of: "prompts", name: "Exact duplicates", fixed: true, value: (one) => one.exact, drops: (v) => v === true, why: () => "the same prompt came earlier" },
  { key: "near", of: "prompts", name: "Near-duplicates", limit: "similarity below", value: (one) => one.near, drops: (v, t) => v >= t, why: (v, t) => `similarity ${fixed(v, 2)} to an earlier prompt, limit ${fixed(t, 2)}` },
  { key: "contradictions", of: "pairs", name: "Contradictions", fixed: true, value: (one) => one.contradicts, drops: (v) => v === true, why: () => "another pair prefers the reverse" },
  { key: "margin", of: "pairs", name: "Near-ties", limit: "margin at least", value: (one) => one.score_chosen - one.score_rejected, drops: (v, t) => v < t, why: (v, t) => `margin ${brief(v)}, least ${String(+t.toFixed(3))}` },
  { key: "ratio", of: "pairs", name: "Unequal lengths", limit: "ratio at most", value: (one) => lengthRatio(one.chosen_tokens, one.rejected_tokens), drops: (v, t) => v > t, why: (v, t) => `length ratio ${fixed(v, 2)}, greatest ${fixed(t, 2)}` },
  { key: "leak", of: "pairs", name: "Leakage", limit: "overlap below", value: (one) => one.leak, drops: (v, t) => v >= t, why: (v, t) => `overlap ${fixed(v, 2)} with a held-out prompt, limit ${fixed(t, 2)}` },
];
const NONE = { near: Infinity, margin: -Infinity, ratio: Infinity, leak: Infinity };

/**
 * What each filter in turn removes from what the ones before it left. thresholds: {near, margin, ratio, leak} numbers, {exact,
 * contradictions} booleans; what is missing is off. Gives stages [{key, before, kept, removed}] (indexes), and the pairs left.
 */
function funnel(data, thresholds) {
  const limits = { ...NONE, ...thresholds };
  const stages = [];
  const run = (items, filter, before) => {
    const removed = [];
    const kept = before.filter((k) => {
      const value = filter.value(items[k]);
      const goes = value !== null && value !== undefined && !Number.isNaN(value) && limits[filter.key] !== false && limits[filter.key] !== undefined && filter.drops(value, limits[filter.key]);
      if (goes) removed.push(k);
      return !goes;
    });
    stages.push({ key: filter.key, of: filter.of, before, kept, removed });
    return kept;
  };
  let prompts = data.prompts.map((_, k) => k);
  for (const filter of FILTERS) if (filter.of === "prompts") prompts = run(data.prompts, filter, prompts);
  // A pair goes with its prompt. Where a text stands twice, one prompt that stays is enough; an unlisted prompt takes no pair with it.
  const names = (set) => new Set(set.flatMap((k) => [data.prompts[k].id, data.prompts[k].text]));
  const known = names(data.prompts.map((_, k) => k));
  const alive = names(prompts);
  const all = data.pairs.map((_, k) => k);
  let pairs = all.filter((k) => !known.has(data.pairs[k].prompt) || alive.has(data.pairs[k].prompt));
  stages.push({ key: "prompt", of: "pairs", before: all, kept: pairs, removed: all.filter((k) => !pairs.includes(k)) });
  for (const filter of FILTERS) if (filter.of === "pairs") pairs = run(data.pairs, filter, pairs);
  return { stages, pairs, prompts };
}

/** A set of pairs: how many, of how many prompts, how often chosen is longer (equal counts half), mean margin, share the right way round. */
function portrait(data, indexes) {
  const pairs = indexes.map((k) => data.pairs[k]);
  const lengths = pairs.filter((p) => Number.isFinite(p.chosen_tokens) && Number.isFinite(p.rejected_tokens));
  const margins = pairs.map((p) => p.score_chosen - p.score_rejected).filter(Number.isFinite);
  const [right, wrong] = [1, -1].map((sign) => pairs.filter((p) => p.truth === sign).length);
  return { pairs: pairs.length, right: right + wrong ? right / (right + wrong) : NaN, prompts: new Set(pairs.map((p) => p.prompt)).size,
    longer: lengths.length ? lengths.reduce((sum, p) => sum + 0.5 + 0.5 * Math.sign(p.chosen_tokens - p.rejected_tokens), 0) / lengths.length : NaN,
    margin: margins.length ? margins.reduce((a, b) => a + b, 0) / margins.length : NaN };
}

function preferenceFunnel(host, root, data) {
  const usable = (v) => v !== null && v !== undefined && !Number.isNaN(v);
  const source = { prompts: data.prompts, pairs: data.pairs };
  const filters = FILTERS.filter((f) => source[f.of].some((one) => usable(f.value(one))));
  const finite = (f) => source[f.of].map(f.value).filter((v) => usable(v) && Number.isFinite(v));
  /** Some forty thresholds from off to the strictest that the data give reason for. */
  const scale = (f) => {
    if (f.key === "ratio") return [1, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.25, 2.5, 2.75, 3, 3.5, 4, 5, 6, 8, 10, Infinity].reverse();
    if (f.key === "margin") {
      return [-Infinity, ...ticks(Math.min(0, ...finite(f)), Math.max(1e-6, ...finite(f)), 24).map((v) => +v.toPrecision(6))];
    }
    return [Infinity, ...range(0.02, 1, 0.02).reverse()];
  };
  const short = (v) => String(+v.toFixed(3)).replace("-", "−");
  const start = { exact: true, near: 0.7, contradictions: true, margin: 0.5, ratio: 2, leak: 0.5, ...(data.start || {}) };
  const limits = {};
  let stage = "margin";
  let side = "removed";
  let page = 0;
  let now = null;

  const at = new Map();
  const rows = [];
  const addRow = (key, name, filter) => {
    const id = `al-stage-${++serial}`;
    const parts = { key, filter, kept: h("i", { class: "kept" }), lost: h("i", { class: "lost" }), left: h("b"), gone: h("span", { class: "gone-count" }) };
    parts.button = h("button", { type: "button", id, class: "stage-name", "aria-pressed": "false", onclick: () => { stage = key; page = 0; update(); } }, name);
    const bar = h("div", { class: "stage-bar", "aria-hidden": "true" }, parts.kept, parts.lost);
    let tool = null;
    if (filter && filter.fixed) {
      const box = h("input", { id: `${id}-box`, type: "checkbox", checked: start[key] !== false, onchange: () => { limits[key] = box.checked; stage = key; page = 0; update(); } });
      limits[key] = start[key] !== false;
      parts.set = (v) => { box.checked = v !== false; limits[key] = box.checked; };
      tool = h("div", { class: "switch" }, box, h("label", { for: `${id}-box` }, "drop them"));
    } else if (filter) {
      // From off to the strictest; what the lab set is among them.
      const values = scale(filter);
      const wanted = start[key];
      if (Number.isFinite(wanted) && !values.includes(wanted)) values.splice(values.findLastIndex((v) => (key === "margin" ? v < wanted : v > wanted)) + 1, 0, wanted);
      const control = slider({ label: filter.limit, values, value: usable(start[key]) ? start[key] : values[0], show: (v) => (Number.isFinite(v) ? short(v) : "off"), oninput: (v) => { limits[key] = v; stage = key; page = 0; update(); } });
      limits[key] = control.get();
      parts.set = (v) => { control.set(usable(v) ? v : values[0]); limits[key] = control.get(); };
      // Where the items lie, along the slider: each in the strictest position that still keeps it.
      parts.values = values;
      parts.place = source[filter.of].map((one) => {
        const v = filter.value(one);
        if (!usable(v)) return -1;
        const first = values.findIndex((t) => filter.drops(v, t));
        return first < 0 ? values.length - 1 : Math.max(0, first - 1);
      });
      parts.density = { kept: s("path", { class: "kept" }), lost: s("path", { class: "lost" }) };
      parts.most = Math.max(...values.map((_, k) => parts.place.filter((p) => p === k).length), 1);
      tool = h("div", { class: "tool" }, s("svg", { class: "density", style: `--gaps: ${Math.max(1, values.length - 1)}`, viewBox: `0 0 ${values.length} 20`, height: 20, preserveAspectRatio: "none", "aria-hidden": "true" }, parts.density.kept, parts.density.lost), control.root);
    }
    parts.root = h("li", { class: "stage-row" }, parts.button, bar, h("div", { class: "stage-count" }, parts.left, parts.gone), h("div", { class: "stage-tool" }, tool));
    rows.push(parts);
    at.set(key, parts);
  };
  addRow("start", "Prompts collected", null);
  for (const f of filters) if (f.of === "prompts") addRow(f.key, f.name, f);
  addRow("prompt", "Pairs of these prompts", null);
  for (const f of filters) if (f.of === "pairs") addRow(f.key, f.name, f);
  if (!at.has(stage)) stage = filters.length ? filters[filters.length - 1].key : "prompt";

  const tiles = { pairs: tile("Pairs kept", ""), prompts: tile("Prompts covered", ""), longer: tile("Chosen is longer", "of pairs"), right: tile("Right way round", "of decided"), margin: tile("Mean margin", "") };
  const judged = data.pairs.some((p) => p.truth === 1 || p.truth === -1);
  delete tiles[judged ? "prompts" : "right"];
  const before = portrait(data, data.pairs.map((_, k) => k));
  const sides = choice({ label: "Which texts to read", options: [["removed", "Removed here"], ["kept", "Kept after it"]], value: side, onchoose: (v) => { side = v; page = 0; update(); } });
  const title = h("b", { class: "list-title" });
  const verdict = h("span", { class: "list-verdict" });
  const counted = h("span", { class: "list-count" });
  const turn = (by) => h("button", { type: "button", class: "chip", "aria-label": by < 0 ? "Earlier texts" : "More texts", onclick: () => { page += by; update(); } }, by < 0 ? "←" : "→");
  const cards = Array.from({ length: 4 }, () => {
    const parts = { prompt: h("p", { class: "ask" }), chosen: h("p"), rejected: h("p"), why: h("p", { class: "why" }) };
    parts.answers = h("div", { class: "answers" }, h("span", { class: "sign good", "aria-hidden": "true" }, "+"), h("span", { class: "unseen" }, "chosen:"), parts.chosen, h("span", { class: "sign bad", "aria-hidden": "true" }, "−"), h("span", { class: "unseen" }, "rejected:"), parts.rejected);
    parts.root = h("li", { class: "text-card" }, parts.why, parts.prompt, parts.answers);
    return parts;
  });
  const list = h("ol", { class: "texts" }, cards.map((c) => c.root));
  const empty = h("p", { class: "empty", role: "status" });
  const spoken = h("p", { class: "unseen", role: "status" });
  const attempt = invitation(host, data, "Raise the least margin: how many pairs does it cost, and is chosen still the longer one as often?");
  const nothing = () => { for (const p of rows) if (p.set) p.set(p.filter.fixed ? false : undefined); page = 0; update(); };
  const again = () => { for (const p of rows) if (p.set) p.set(start[p.key]); page = 0; update(); };

  root.append(h("section", { class: "explorer funnel", "aria-label": "Explorer: from prompts to clean preference pairs" },
    h("header", null, h("span", { class: "what" }, `${count(data.prompts.length)} prompts, ${count(data.pairs.length)} pairs`),
      h("div", { class: "presets", role: "group", "aria-label": "Settings to start from" }, h("button", { type: "button", class: "chip", onclick: again }, "As at the start"), h("button", { type: "button", class: "chip", onclick: nothing }, "No filter"))),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("ol", { class: "funnel-stages", "aria-label": "Filters, in the order in which they are applied" }, rows.map((p) => p.root)),
    h("div", { class: "figures" }, Object.values(tiles).map((t) => t.root)),
    h("div", { class: "list-head" }, h("div", { class: "list-what" }, title, verdict), sides.root, h("div", { class: "buttons" }, turn(-1), counted, turn(1))),
    h("div", { class: "list-body" }, list, empty),
    h("footer", null, "Real prompts and pairs. Each filter works on what the ones above it left. The small bars show where the items lie: those left of the thumb go."),
    spoken));

  const text = (t) => (typeof t === "string" ? t : t === undefined || t === null ? "" : String(t));
  const promptText = new Map(data.prompts.map((p) => [p.id, p.text]));

  function update() {
    const began = performance.now();
    now = funnel(data, limits);
    const byKey = new Map(now.stages.map((one) => [one.key, one]));
    const totals = { prompts: data.prompts.length, pairs: data.pairs.length };
    for (const parts of rows) {
      const one = byKey.get(parts.key) || { of: "prompts", before: data.prompts, kept: data.prompts, removed: [] };
      const all = totals[one.of] || 1;
      parts.kept.style.clipPath = `inset(0 ${100 - (100 * one.kept.length) / all}% 0 0)`;
      parts.lost.style.clipPath = `inset(0 ${100 - (100 * one.before.length) / all}% 0 ${(100 * one.kept.length) / all}%)`;
      say(parts.left, count(one.kept.length));
      say(parts.gone, one.removed.length ? `−${count(one.removed.length)}` : "");
      parts.button.setAttribute("aria-pressed", String(parts.key === stage));
      parts.root.classList.toggle("picked", parts.key === stage);
      if (parts.density) {
        const cut = parts.values.indexOf(limits[parts.key]);
        const bar = (keep) => parts.values.map((_, k) => {
          const tall = keep === k >= cut ? 20 * Math.sqrt(parts.place.filter((p) => p === k).length / parts.most) : 0;
          return tall ? `M${k + 0.12} 20V${(20 - tall).toFixed(2)}H${k + 0.88}V20Z` : "";
        }).join("");
        parts.density.kept.setAttribute("d", bar(true));
        parts.density.lost.setAttribute("d", bar(false));
      }
    }
    const after = portrait(data, now.pairs);
    const share = (x) => (Number.isFinite(x) ? `${Math.round(100 * x)}%` : "–");
    tiles.pairs.value(count(after.pairs)); tiles.pairs.note(`of ${count(before.pairs)}`);
    if (tiles.prompts) { tiles.prompts.value(count(after.prompts)); tiles.prompts.note(`of ${count(before.prompts)}`); }
    if (tiles.right) { tiles.right.value(share(after.right)); tiles.right.note(`unfiltered ${share(before.right)}`); }
    tiles.longer.value(share(after.longer)); tiles.longer.note(`unfiltered ${share(before.longer)}`);
    tiles.margin.value(brief(after.margin)); tiles.margin.note(`unfiltered ${brief(before.margin)}`);
    read(byKey);
    clearTimeout(update.telling);
    update.telling = setTimeout(() => say(spoken, `${after.pairs} of ${before.pairs} pairs kept.`), 500);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, limits: { ...limits }, result: now } }));
  }

  function read(byKey) {
    const parts = at.get(stage);
    const one = byKey.get(stage) || { of: "prompts", kept: data.prompts.map((_, k) => k), removed: [] };
    const which = one[side];
    const many = list.clientWidth > 620 ? 4 : 2;
    const pages = Math.max(1, Math.ceil(which.length / many));
    page = ((page % pages) + pages) % pages;
    const [right, wrong] = [1, -1].map((sign) => one.of === "pairs" ? which.filter((k) => data.pairs[k].truth === sign).length : 0);
    say(title, parts.button.textContent);
    say(verdict, judged && one.of === "pairs" && which.length ? `${right} right way round, ${wrong} wrong` : "");
    say(counted, which.length ? `${page * many + 1}–${Math.min(which.length, (page + 1) * many)} of ${which.length}` : "0 of 0");
    cards.forEach((card, k) => {
      const index = k < many ? which[page * many + k] : undefined;
      card.root.style.visibility = index === undefined ? "hidden" : "visible";
      card.root.hidden = k >= many;
      if (index === undefined) return;
      const item = source[one.of][index];
      const value = parts.filter ? parts.filter.value(item) : undefined;
      card.root.classList.toggle("prompt-only", one.of === "prompts");
      const really = { 1: "", "-1": " · the wrong way round" }[item.truth] ?? "";
      const told = side === "removed" && parts.filter ? parts.filter.why(value, limits[stage]) : side === "removed" ? "its prompt was removed" : one.of === "prompts" ? `prompt ${text(item.id)}` : `${item.source ? `by ${text(item.source)}, ` : ""}margin ${brief(item.score_chosen - item.score_rejected)}, ${text(item.chosen_tokens) || "–"} and ${text(item.rejected_tokens) || "–"} tokens`;
      say(card.why, told + (one.of === "pairs" ? really : ""));
      say(card.prompt, one.of === "prompts" ? text(item.text) : text(promptText.get(item.prompt) ?? item.prompt));
      say(card.chosen, one.of === "prompts" ? "" : text(item.chosen));
      say(card.rejected, one.of === "prompts" ? "" : text(item.rejected));
    });
    say(empty, which.length ? "" : side === "removed" ? "This step removes nothing." : "Nothing is left.");
  }

  for (const p of rows) if (p.filter && p.set) limits[p.key] = p.filter.fixed ? start[p.key] !== false : limits[p.key];
  whenWide(list, update);
}

define("alignlab-preference_funnel", preferenceFunnel, { funnel, portrait });
