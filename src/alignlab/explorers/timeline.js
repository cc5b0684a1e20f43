// <alignlab-timeline>: what led to today's language models, 2012 to 2026, by subject or by size, each step with its source.
//
// Data: {subjects: [{key, title}], milestones: [{name, date, subject, brought, size, section, address, cite, parents, parameters,
// active, open}]}, by date. May be added: start: {name, from, to, view}.

/** "2017-06" as a number of years. */
const when = (date) => +date.slice(0, 4) + (+date.slice(5, 7) - 0.5) / 12;
const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const inWords = (date) => `${MONTHS[+date.slice(5, 7) - 1]} ${date.slice(0, 4)}`;

/** Whether a milestone passes the filters {subject, weights, from, to}; an empty one lets all pass. */
function within(one, filters) {
  const year = +one.date.slice(0, 4);
  return (!filters.subject || one.subject === filters.subject) && (!filters.weights || one.open === (filters.weights === "open"))
    && year >= (filters.from ?? -Infinity) && year <= (filters.to ?? Infinity);
}

/** A milestone's ancestors and descendants by name, itself included. */
function kinOf(all, name) {
  const found = new Set([name]);
  const up = (its) => (all.find((one) => one.name === its) || { parents: [] }).parents.forEach((p) => { if (!found.has(p)) { found.add(p); up(p); } });
  const down = (its) => all.filter((one) => one.parents.includes(its)).forEach((one) => { if (!found.has(one.name)) { found.add(one.name); down(one.name); } });
  up(name);
  down(name);
  return found;
}

/** How far from the middle of its row each dot stands, in dots, so that none covers another: [x, row] to offsets. */
function stacked(spots, apart) {
  const offsets = [];
  spots.forEach(([x, row], k) => {
    const near = spots.slice(0, k).map(([px, prow], j) => (prow === row && Math.abs(px - x) < apart ? offsets[j] : null)).filter((o) => o !== null);
    offsets.push([0, -1, 1, -2, 2, -3, 3, -4, 4].find((o) => !near.includes(o)) ?? 0);
  });
  return offsets;
}

const SIZES = [[7, "10 million"], [8, "100 million"], [9, "1 billion"], [10, "10 billion"], [11, "100 billion"], [12, "1 trillion"]];

function timeline(host, root, data) {
  const all = data.milestones;
  const start = data.start || {};
  const years = range(2012, 2026, 1);
  const filters = { subject: "", weights: "", from: start.from ?? 2012, to: start.to ?? 2026 };
  let chosen = Math.max(0, all.findIndex((one) => one.name === start.name));
  let view = start.view || "subjects";

  const picker = (key, label, options) => {
    const id = `al-filter-${++serial}`;
    const list = h("select", { id, onchange: () => { filters[key] = list.value; update(); } }, [["", "all"], ...options].map(([value, text]) => h("option", { value }, text)));
    return { list, root: h("div", { class: "filter" }, h("label", { for: id }, label), list) };
  };
  const pickers = [
    picker("subject", "Subject", data.subjects.map((one) => [one.key, one.title])),
    picker("weights", "Weights", [["open", "open: to download"], ["closed", "not published"]]),
  ];
  const views = choice({ label: "What the height shows", options: [["subjects", "By subject"], ["size", "By parameters"]], value: view, onchoose: (key) => { view = key; update(); } });
  const fromSlider = slider({ label: "From", values: years, value: filters.from, show: String, oninput: (v) => { filters.from = v; update(); } });
  const toSlider = slider({ label: "To", values: years, value: filters.to, show: String, oninput: (v) => { filters.to = v; update(); } });
  const walk = slider({ label: "Step", note: "by date", values: all.map((_, k) => k), value: chosen, show: (k) => all[k].date.slice(0, 4), speak: (k) => `${all[k].name}, ${inWords(all[k].date)}`, oninput: (k) => { chosen = k; update(); } });
  const pick = (k) => { chosen = k; walk.set(k); update(); };

  const HEIGHT = 430;
  const chart = axes({ height: HEIGHT, left: 104, right: 26, top: 8, bottom: 30, attributes: { role: "img", class: "line-of" } });
  const title = s("title");
  const lines = all.flatMap((one, to) => one.parents.map((name) => ({ from: all.findIndex((p) => p.name === name), to, path: s("path", { class: "descent" }) }))).filter((one) => one.from >= 0);
  const sticks = all.map((one) => (one.active ? s("path", { class: "stick" }) : null));
  const dots = all.map((one, k) => s("circle", { r: 6, onclick: () => pick(k) }, s("title", null, `${one.name}, ${inWords(one.date)}`)));
  const names = s("g", { class: "names", "aria-hidden": "true" });
  chart.svg.prepend(title);
  chart.marks.append(...lines.map((one) => one.path), ...sticks.filter(Boolean));
  chart.over.append(...dots, names);

  const chips = all.map((one, k) => h("button", { type: "button", class: "chip", onclick: () => pick(k) }, one.name));
  const card = h("div", { class: "card-of", role: "region", tabindex: "0", "aria-label": "The chosen step" });
  const verdict = h("p", { class: "verdict", role: "status" });
  const clear = h("button", { type: "button", class: "chip", onclick: () => {
    pickers.forEach((one) => { one.list.value = ""; });
    Object.assign(filters, { subject: "", weights: "", from: 2012, to: 2026 });
    fromSlider.set(2012);
    toSlider.set(2026);
    update();
  } }, "Show all");
  const attempt = invitation(host, data, "Follow the Transformer's ancestors back. Then show the height by parameters.");

  root.append(h("section", { class: "explorer times", "aria-label": "Explorer: timeline from 2012 to 2026" },
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "filters" }, pickers.map((one) => one.root), h("div", { class: "filter" }, views.root), h("div", { class: "filter last" }, clear)),
    h("div", { class: "walks" }, fromSlider.root, toSlider.root, walk.root),
    h("figure", null, h("figcaption", null, h("span", null, "Lines lead from what was there to what grew from it"), h("span", { class: "legend" },
      data.subjects.map((one) => h("span", null, h("i", { class: `dot-key ${one.key}` }), one.title)))), chart.svg),
    verdict, card,
    h("div", { class: "chips" }, chips),
    h("footer", null, "The month is that of the arXiv number where there is one, else of publication. Parameters as the source states them, of its largest model; where experts share the work, a line leads down to what one token uses.")));

  const base = document.documentElement.dataset.content_root; // the book's pages say where its root is; a notebook does not

  function drawCard(one) {
    const fact = (name, text) => [h("dt", null, name), h("dd", null, text)];
    const place = /^\d/.test(one.section) ? `section ${one.section}` : one.section.replaceAll("-", " ");
    const link = base === undefined ? place : h("a", { href: `${base}${one.address}` }, place);
    const grown = all.filter((other) => other.parents.includes(one.name)).map((other) => other.name);
    const source = base === undefined ? one.cite : h("a", { href: `${base}book/bibliography.html` }, one.cite);
    card.replaceChildren(h("p", { class: "named" }, h("b", null, one.name), ` ${inWords(one.date)}`), h("p", { class: "idea" }, one.brought),
      h("dl", { class: "facts" }, fact("Size", one.size || "–"), fact("Weights", one.open === true ? "open" : one.open === false ? "not published" : "–"),
        fact("Grew from", one.parents.join(", ") || "–"), fact("Led to", grown.join(", ") || "–"), fact("In this book", link), fact("Source", source)));
  }

  function update() {
    const began = performance.now();
    const one = all[chosen];
    const kin = kinOf(all, one.name);
    const wide = chart.svg.getBoundingClientRect().width || 380;
    const rows = data.subjects.length;
    const bySize = view === "size";
    const first = Math.min(filters.from, filters.to);
    const last = Math.max(filters.from, filters.to);
    const span = [first, last + 1];
    const every = Math.max(1, Math.ceil((last - first + 1) / (wide > 560 ? 15 : 5)));
    const xTicks = range(first, last, 1).filter((year) => (year - first) % every === 0);
    chart.frame(bySize
      ? { x: span, y: [7.3, 12.7], xTicks, xText: String, yTicks: SIZES.slice(1).map(([v]) => v), yText: (v) => SIZES.find(([w]) => w === v)[1] }
      : { x: span, y: [rows + 0.5, 0.5], xTicks, xText: String, yTicks: data.subjects.map((_, k) => k + 1), yText: (k) => data.subjects[k - 1].title });
    const shown = all.map((other) => within(other, { ...filters, from: first, to: last }));
    const placed = all.map((_, k) => shown[k] && (!bySize || all[k].parameters));
    const spots = all.map((other) => [chart.x(when(other.date)), data.subjects.findIndex((f) => f.key === other.subject)]);
    const offsets = stacked(spots.map(([x, row], k) => [placed[k] ? x : -1e6 * (k + 1), row]), 14);
    const spot = (k) => [spots[k][0], bySize ? chart.y(Math.log10(all[k].parameters || 1)) : chart.y(spots[k][1] + 1) + 14 * offsets[k]];
    names.replaceChildren();
    const taken = [];
    const label = (k, kind) => {
      const [x, y] = spot(k);
      const side = x > wide - 110 ? "end" : x < 190 ? "start" : "middle";
      const length = 7 * all[k].name.length;
      const left = side === "end" ? x - length : side === "start" ? x : x - length / 2;
      const covers = (l, r, t, tall) => Math.abs(t - (y - 15)) < tall && l < left + length && left < r;
      if (kind !== "here" && (taken.some(([l, r, t]) => covers(l, r, t - 15, 15)) || all.some((_, j) => j !== k && placed[j] && covers(spot(j)[0] - 5, spot(j)[0] + 5, spot(j)[1], 11)))) return;
      taken.push([left, left + length, y]);
      names.append(s("text", { x, y: y - 11, "text-anchor": side, class: kind }, all[k].name));
    };
    all.forEach((other, k) => {
      const [x, y] = spot(k);
      dots[k].style.display = placed[k] ? "" : "none";
      dots[k].setAttribute("cx", x.toFixed(1));
      dots[k].setAttribute("cy", y.toFixed(1));
      dots[k].setAttribute("class", `${other.subject}${k === chosen ? " here" : kin.has(other.name) ? "" : " far"}`);
      chips[k].disabled = !shown[k];
      chips[k].setAttribute("aria-pressed", String(k === chosen));
      if (sticks[k]) sticks[k].setAttribute("d", bySize && placed[k] ? `M${x.toFixed(1)} ${y.toFixed(1)}V${chart.y(Math.log10(other.active)).toFixed(1)}m-5 0h10` : "");
    });
    if (placed[chosen]) label(chosen, "here");
    const related = (other) => one.parents.includes(other.name) || other.parents.includes(one.name);
    const order = all.map((_, k) => k).filter((k) => k !== chosen && placed[k] && (related(all[k]) || bySize)).sort((a, b) => related(all[b]) - related(all[a]) || all[b].parameters - all[a].parameters);
    if (wide > 640) order.forEach((k) => label(k, related(all[k]) ? "near" : "also"));
    for (const { from, to, path } of lines) {
      const near = from === chosen || to === chosen;
      path.setAttribute("class", `descent${near ? " near" : kin.has(all[from].name) && kin.has(all[to].name) ? " kin" : ""}`);
      const [[x0, y0], [x1, y1]] = [spot(from), spot(to)];
      const middle = ((x0 + x1) / 2).toFixed(1);
      path.setAttribute("d", placed[from] && placed[to] && (near || !bySize) ? `M${x0.toFixed(1)} ${y0.toFixed(1)}C${middle} ${y0.toFixed(1)} ${middle} ${y1.toFixed(1)} ${x1.toFixed(1)} ${y1.toFixed(1)}` : "");
    }
    drawCard(one);
    const many = shown.filter(Boolean).length;
    const drawn = placed.filter(Boolean).length;
    say(verdict, `${many} of ${all.length} steps fit.${bySize ? ` ${drawn} of them state their parameters.` : ""}${shown[chosen] ? "" : ` ${one.name} is not among them.`}`);
    say(title, `A timeline of ${all.length} steps from 2012 to 2026, ${bySize ? "by parameters" : "by subject"}; ${drawn} are drawn. Chosen: ${one.name}, ${inWords(one.date)}.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, fit: many, drawn, chosen: one.name } }));
  }

  whenWide(chart.svg, update);
}

define("alignlab-timeline", timeline, { within, kinOf, stacked, when });
