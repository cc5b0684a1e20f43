// <alignlab-clip_table>: CLIP's table of cosines for six pictures and their texts; scale and batch make choices and a loss of them.
//
// Data: {scale: learned, sets: [{name, title, note, captions: [text], pictures: [PNG, base64], cosines: [[number]]}]}; row i of
// cosines is picture i, column j is text j, and i belongs to i. May be added: start: {set, view, scale, pairs}.

const logsumexp = (values) => {
  const most = Math.max(...values);
  return most + Math.log(values.reduce((sum, v) => sum + Math.exp(v - most), 0));
};
const turned = (table) => table[0].map((_, j) => table.map((row) => row[j]));

/** Softmax over each row of scaled cosines: what a picture thinks of the texts. */
const shares = (cosines, scale) => cosines.map((row) => { const all = logsumexp(row.map((c) => scale * c)); return row.map((c) => Math.exp(scale * c - all)); });

/** The cross-entropies of rows and columns, in nats, and CLIP's loss, the mean of all. */
function losses(cosines, scale) {
  const of = (table) => table.map((row, i) => logsumexp(row.map((c) => scale * c)) - scale * row[i]);
  const [rows, columns] = [of(cosines), of(turned(cosines))];
  return { rows, columns, mean: [...rows, ...columns].reduce((a, b) => a + b, 0) / (2 * rows.length) };
}

const VIEWS = [["rows", "Picture chooses text"], ["columns", "Text chooses picture"], ["cosines", "Cosines"]];

function clipTable(host, root, data) {
  const start = data.start || {};
  const scales = [...powers(0, 2, 0.05).filter((v) => v !== data.scale), data.scale].sort((a, b) => a - b);
  let set = data.sets.find((one) => one.name === start.set) || data.sets[0];
  let view = start.view || "rows";
  let scale = start.scale || data.scale;
  const size = set.captions.length;
  let pairs = start.pairs || size;

  const sets = choice({ label: "Six pictures", options: data.sets.map((one) => [one.name, one.title]), value: set.name,
    onchoose: (name) => { set = data.sets.find((one) => one.name === name); fill(); update(); } });
  const views = choice({ label: "Show", options: VIEWS, value: view, onchoose: (name) => { view = name; update(); } });
  const scaleSlider = slider({ label: "Scale s", note: `learned: ${fixed(data.scale, 1)}`, values: scales, value: scale, show: (v) => fixed(v, 1), speak: (v) => `scale ${fixed(v, 1)}`,
    oninput: (v) => { scale = v; update(); } });
  const pairsSlider = slider({ label: "Pairs in the batch", values: range(2, size, 1), value: pairs, show: (v) => String(v), speak: (v) => `${v} pairs`,
    oninput: (v) => { pairs = v; update(); } });
  const learned = h("button", { type: "button", class: "chip", onclick: () => { scale = data.scale; scaleSlider.set(scale); update(); } }, "Learned scale");

  const heads = range(1, size, 1).map((n) => h("th", { scope: "col" }, `text ${n}`));
  const names = range(1, size, 1).map((n) => h("th", { scope: "row" }));
  const cells = names.map((_, i) => heads.map((_, j) => h("td", { class: i === j ? "own" : null })));
  const table = h("table", { class: "cosines" },
    h("caption", { class: "unseen" }, "Pictures in rows, texts in columns"),
    h("thead", null, h("tr", null, h("td", { class: "corner" }), heads)),
    h("tbody", null, cells.map((row, i) => h("tr", null, names[i], row))));
  const texts = h("ol", { class: "texts", "aria-label": "The texts" });
  const told = h("p", { class: "told", role: "status" });
  const tiles = { pictures: tile("Pictures' loss", "nats"), texts: tile("Texts' loss", "nats"), loss: tile("CLIP's loss", "nats"), guess: tile("Guessing", "log of the pairs") };

  const chart = axes({ height: 190, left: 40, attributes: { class: "by-scale", role: "img" } });
  const title = s("title");
  const level = s("line", { class: "level" });
  const line = s("path", { class: "own" });
  const dot = s("circle", { class: "here", r: 5.5 });
  chart.svg.prepend(title);
  chart.marks.append(level, line);
  chart.over.append(dot);

  const tries = invitation(host, data, "Move the scale to 1, then to 100; then give it the same words in another order.");
  root.append(h("section", { class: "explorer cliptable", "aria-label": "Explorer: CLIP's table" },
    h("header", null, sets.root, views.root),
    tries ? h("p", { class: "try" }, h("b", null, "Try: "), tries) : null,
    h("div", { class: "sides" },
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, table),
      h("div", { class: "beside" }, texts, h("div", { class: "set" }, scaleSlider.root, pairsSlider.root, learned))),
    told,
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    h("figure", { class: "scale-figure" }, h("figcaption", null, "CLIP's loss of these pairs over the scale; dashed: guessing"), chart.svg),
    h("footer", null, "Cosines of the lab's trained CLIP on pictures that it was not trained on. Outlined: what belongs together.")));

  function fill() {
    texts.replaceChildren(...set.captions.map((text, n) => h("li", null, h("b", null, `${n + 1}`), h("span", null, text))));
    names.forEach((head, i) => head.replaceChildren(h("img", { src: `data:image/png;base64,${set.pictures[i]}`, alt: `picture ${i + 1}: ${set.captions[i]}`, width: 46, height: 46 })));
  }

  function update() {
    const began = performance.now();
    const part = set.cosines.slice(0, pairs).map((row) => row.slice(0, pairs));
    const found = losses(part, scale);
    const chosen = view === "columns" ? turned(shares(turned(part), scale)) : shares(part, scale);
    const shown = view === "cosines" ? part : chosen;
    cells.forEach((row, i) => row.forEach((cell, j) => {
      const inside = i < pairs && j < pairs;
      const text = inside ? fixed(shown[i][j], 2) : "";
      if (cell.textContent !== text) cell.replaceChildren(h("span", null, text));
      cell.style.setProperty("--p", inside ? `${(48 * Math.max(0, shown[i][j])).toFixed(1)}%` : "0%");
    }));
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    tiles.pictures.value(fixed(mean(found.rows), 2));
    tiles.texts.value(fixed(mean(found.columns), 2));
    tiles.loss.value(fixed(found.mean, 2));
    tiles.guess.value(fixed(Math.log(pairs), 2));
    const lines = view === "columns" ? turned(part) : part;
    const right = lines.filter((row, i) => row.every((c, j) => j === i || c < row[i])).length;
    const who = view === "columns" ? "texts find their picture" : "pictures find their text";
    const text = `${right} of ${pairs} ${who}, at any scale: it changes how sure the choice is, not which one it is. ${set.note}`;
    if (told.textContent !== text) told.replaceChildren(h("span", null, text));
    const curve = scales.map((v) => losses(part, v).mean);
    const top = 1.1 * Math.max(Math.log(pairs), ...curve);
    chart.frame({ x: [1, 100], y: [0, top], xName: "scale s", yName: "nats", xTicks: [1, 3, 10, 30, 100], xText: String, warp: Math.log10 });
    line.setAttribute("d", trace(scales.map((v, k) => [chart.x(v), chart.y(curve[k])])));
    for (const [name, v] of Object.entries({ x1: chart.area.l, x2: chart.area.r, y1: chart.y(Math.log(pairs)), y2: chart.y(Math.log(pairs)) })) level.setAttribute(name, v);
    dot.setAttribute("cx", chart.x(scale));
    dot.setAttribute("cy", chart.y(found.mean));
    say(title, `The loss of ${pairs} pairs is ${fixed(curve[0], 2)} nats at scale 1, ${fixed(found.mean, 2)} at ${fixed(scale, 1)}, ${fixed(curve[curve.length - 1], 2)} at 100.`);
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, set: set.name, view, scale, pairs, loss: found.mean, right } }));
  }

  fill();
  whenWide(chart.svg, update);
}

define("alignlab-clip_table", clipTable, { losses, shares });
