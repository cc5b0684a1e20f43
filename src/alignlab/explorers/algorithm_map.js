// <alignlab-algorithm_map>: reinforcement learning algorithms by year and kind, to be filtered, each with its section of the book.
//
// Data: {families: [{key, title}], algorithms: [{name, year, family, model, learns, data, actions, idea, section, address, cite,
// parents, language}]}, by year. May be added: start: {name, until}.

const SAYS = {
  model: { free: "model-free", based: "model-based" },
  learns: { value: "values", policy: "a policy", both: "a policy and values" },
  data: { on: "its own, fresh (on-policy)", off: "anybody's (off-policy)", fixed: "a fixed data set (offline)", none: "none: the model says all" },
  actions: { discrete: "finitely many", continuous: "continuous", both: "both kinds" },
};

/** Whether an algorithm passes the filters: {model, learns, data, actions, language, until}; an empty one lets all pass. */
function passes(one, filters) {
  const fits = (key) => !filters[key] || one[key] === filters[key] || (key === "actions" && one[key] === "both");
  return ["model", "learns", "data", "actions"].every(fits) && (!filters.language || Boolean(one.language)) && one.year <= (filters.until ?? Infinity);
}

/** Its ancestors and descendants by name, itself included. */
function relatives(all, name) {
  const found = new Set([name]);
  const up = (its) => all.find((one) => one.name === its)?.parents.forEach((p) => { if (!found.has(p)) { found.add(p); up(p); } });
  const down = (its) => all.filter((one) => one.parents.includes(its)).forEach((one) => { if (!found.has(one.name)) { found.add(one.name); down(one.name); } });
  up(name);
  down(name);
  return found;
}

/** Years on a scale that gives the last two decades most of the room. */
const bend = (year) => (year < 1985 ? (year - 1985) * 0.06 : year < 2010 ? (year - 1985) * 0.28 : 7 + (year - 2010));

function algorithmMap(host, root, data) {
  const all = data.algorithms;
  const start = data.start || {};
  const years = [...new Set(all.map((one) => one.year))];
  const filters = { model: "", learns: "", data: "", actions: "", language: "", until: start.until ?? years[years.length - 1] };
  let chosen = Math.max(0, all.findIndex((one) => one.name === start.name));

  const picker = (key, label, options) => {
    const id = `al-filter-${++serial}`;
    const list = h("select", { id, onchange: () => { filters[key] = list.value; update(); } }, [["", "any"], ...options].map(([value, text]) => h("option", { value }, text)));
    return { list, root: h("div", { class: "filter" }, h("label", { for: id }, label), list) };
  };
  const pickers = [
    picker("model", "World model", [["free", "none (model-free)"], ["based", "needs one (model-based)"]]),
    picker("learns", "Learns", [["value", "values"], ["policy", "a policy"], ["both", "both"]]),
    picker("data", "From whose data", [["on", "its own (on-policy)"], ["off", "anybody's (off-policy)"], ["fixed", "fixed (offline)"]]),
    picker("actions", "Actions", [["discrete", "finitely many"], ["continuous", "continuous"]]),
    picker("language", "Language models", [["yes", "used for them"]]),
  ];
  const untilSlider = slider({ label: "Up to the year", values: years, value: filters.until, show: String, oninput: (v) => { filters.until = v; update(); } });
  const walkSlider = slider({ label: "Algorithm", note: "by year", values: all.map((_, k) => k), value: chosen, show: (k) => String(all[k].year), speak: (k) => `${all[k].name}, ${all[k].year}`, oninput: (k) => { chosen = k; update(); } });
  const pick = (k) => { chosen = k; walkSlider.set(k); update(); };

  const chart = axes({ height: 452, left: 112, right: 52, top: 8, bottom: 30, attributes: { role: "img", class: "map" } });
  const title = s("title");
  const lines = all.flatMap((one) => one.parents.map((parent) => ({ from: all.findIndex((p) => p.name === parent), to: all.indexOf(one), path: s("path", { class: "descent" }) })));
  const dots = all.map((one, k) => s("circle", { r: 7, onclick: () => pick(k) }, s("title", null, `${one.name}, ${one.year}`)));
  const names = s("g", { class: "names", "aria-hidden": "true" });
  chart.svg.prepend(title);
  chart.marks.append(...lines.map((one) => one.path));
  chart.over.append(...dots, names);

  const chips = all.map((one, k) => h("button", { type: "button", class: "chip", onclick: () => pick(k) }, one.name));
  const card = h("div", { class: "card-of" });
  const verdict = h("p", { class: "verdict", role: "status" });
  const clear = h("button", { type: "button", class: "chip", onclick: () => {
    pickers.forEach((one) => { one.list.value = ""; });
    Object.assign(filters, { model: "", learns: "", data: "", actions: "", language: "", until: years[years.length - 1] });
    untilSlider.set(filters.until);
    update();
  } }, "Show all");
  const attempt = invitation(host, data, "Choose “used for them” under Language models, then walk back through the ancestors of GRPO.");

  root.append(h("section", { class: "explorer map-of", "aria-label": "Explorer: a map of reinforcement learning algorithms" },
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "filters" }, pickers.map((one) => one.root), h("div", { class: "filter" }, clear)),
    h("div", { class: "walks" }, untilSlider.root, walkSlider.root),
    h("figure", null, h("figcaption", null, h("span", null, "Lines lead from ancestors to descendants"), h("span", { class: "legend" },
      [["on", "on-policy"], ["off", "off-policy"], ["fixed", "fixed data"], ["none", "model alone"]].map(([key, text]) => h("span", null, h("i", { class: `dot-key ${key}` }), text)))), chart.svg),
    verdict, card,
    h("div", { class: "chips" }, chips),
    h("footer", null, "The year is that of the first paper named in the bibliography; for value iteration, TD(λ), SARSA and Dyna that of their first publication.")));

  /** Where each algorithm stands: those of one family and year one under the other. */
  const places = all.map((one) => {
    const same = all.filter((other) => other.family === one.family && Math.abs(other.year - one.year) <= 0);
    return { row: data.families.findIndex((f) => f.key === one.family), shift: same.indexOf(one) - (same.length - 1) / 2 };
  });
  const base = document.documentElement.dataset.content_root; // the book's pages say where its root is; a notebook does not

  function drawCard(one) {
    const fact = (name, text) => [h("dt", null, name), h("dd", null, text)];
    const section = base === undefined ? `section ${one.section}` : h("a", { href: `${base}${one.address}` }, `section ${one.section}`);
    const kin = all.filter((other) => other.parents.includes(one.name)).map((other) => other.name);
    card.replaceChildren(h("p", { class: "named" }, h("b", null, one.name), ` ${one.year}`), h("p", { class: "idea" }, one.idea),
      h("dl", { class: "facts" }, [["World", SAYS.model[one.model]], ["Learns", SAYS.learns[one.learns]], ["Data", SAYS.data[one.data]], ["Actions", SAYS.actions[one.actions]],
        ["Grew from", one.parents.join(", ") || "–"], ["Led to", kin.join(", ") || "–"]].flatMap(([name, text]) => fact(name, text)), fact("In this book", section)),
      h("p", { class: "language" }, h("b", null, "For language models: "), one.language || "no use of its own."));
  }

  function update() {
    const began = performance.now();
    const one = all[chosen];
    const kin = relatives(all, one.name);
    const rows = data.families.length;
    const labels = data.families.map((f) => f.title);
    const lane = (452 - 38) / rows;
    const wide = chart.svg.getBoundingClientRect().width || 380;
    chart.frame({ x: [1928, 2026.5], y: [rows + 0.5, 0.5], warp: bend, xTicks: wide > 560 ? [1933, 1992, 2002, 2010, 2013, 2015, 2017, 2019, 2021, 2023, 2025] : [1957, 2002, 2015, 2025], xText: String, yTicks: labels.map((_, k) => k + 1), yText: (k) => labels[k - 1] });
    const spot = (k) => [chart.x(all[k].year), chart.y(places[k].row + 1) + places[k].shift * Math.min(15, lane / 3)];
    const shown = all.map((other) => passes(other, filters));
    names.replaceChildren();
    all.forEach((other, k) => {
      const [x, y] = spot(k);
      dots[k].setAttribute("cx", x.toFixed(1));
      dots[k].setAttribute("cy", y.toFixed(1));
      dots[k].setAttribute("class", `${other.data}${shown[k] ? "" : " gone"}${k === chosen ? " here" : ""}`);
      chips[k].disabled = !shown[k];
      chips[k].setAttribute("aria-pressed", String(k === chosen));
      if (k === chosen) names.append(s("text", { x, y: y - 13, "text-anchor": x > wide - 90 ? "end" : x < 150 ? "start" : "middle", class: "here" }, other.name));
      else if (wide > 700 && one.parents.includes(other.name)) names.append(s("text", { x, y: y + 21, "text-anchor": "middle" }, other.name));
      else if (wide > 700 && other.parents.includes(one.name)) names.append(s("text", { x: x + 11, y: y + 4 }, other.name));
    });
    for (const { from, to, path } of lines) {
      const [[x0, y0], [x1, y1]] = [spot(from), spot(to)];
      const near = kin.has(all[from].name) && kin.has(all[to].name);
      path.setAttribute("class", `descent${near ? " near" : ""}${shown[from] && shown[to] ? "" : " gone"}`);
      path.setAttribute("d", `M${x0.toFixed(1)} ${y0.toFixed(1)}C${((x0 + x1) / 2).toFixed(1)} ${y0.toFixed(1)} ${((x0 + x1) / 2).toFixed(1)} ${y1.toFixed(1)} ${x1.toFixed(1)} ${y1.toFixed(1)}`);
    }
    drawCard(one);
    const many = shown.filter(Boolean).length;
    say(verdict, `${many} of ${all.length} algorithms fit.${shown[chosen] ? "" : ` ${one.name} is not among them.`}`);
    say(title, `A map of ${all.length} algorithms; ${many} fit the filters. Chosen: ${one.name}, ${one.year}.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, fit: many, chosen: one.name } }));
  }

  whenWide(chart.svg, update);
}

define("alignlab-algorithm_map", algorithmMap, { passes, relatives });
