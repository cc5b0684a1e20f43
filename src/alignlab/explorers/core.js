// Shared by every explorer: building elements, numbers as text, scales, one seeded generator. No dependency.

const SVG_NS = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners ("onclick") and children. */
function h(tag, attributes, ...children) {
  return grow(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function s(tag, attributes, ...children) {
  return grow(document.createElementNS(SVG_NS, tag), attributes, children);
}

function grow(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Write text only where it changed: an untouched node costs the browser nothing. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A number and its unit on one line. The unit is put in anew with each number, so that nothing counts as having moved. */
function quantity(unit) {
  const number = h("b");
  const name = h("em", null, unit);
  const line = h("div", null, number, name);
  const value = (text) => {
    if (number.textContent === text) return;
    number.textContent = text;
    line.append(name);
  };
  return { value, line };
}

const grouped = new Intl.NumberFormat("en-US");
/** 49152 -> "49,152". */
const count = (n) => grouped.format(Math.round(n));
/** A true minus sign, so that columns of figures stand straight. */
const fixed = (x, digits) => x.toFixed(digits).replace(/^-(?=0(\.0*)?$)/, "").replace("-", "−");

/** A probability as a percentage with three figures at most: "93.1%", "4.70%", "0.03%", "<0.01%". */
function percent(p) {
  const x = 100 * p;
  if (x === 0) return "0%";
  if (x >= 99.95) return x >= 99.995 ? "100%" : x.toFixed(2) + "%";
  if (x >= 10) return x.toFixed(1) + "%";
  return x >= 0.01 ? x.toFixed(2) + "%" : "<0.01%";
}

/** Marsaglia-style 32-bit generator (mulberry32): the same seed gives the same draws in [0, 1) everywhere. */
function mulberry32(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Round numbers that cover [low, high] in about n steps. */
function ticks(low, high, n) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/** A token as text: its spaces and line breaks made visible, in spans of their own. */
function tokenText(text) {
  const parts = text.split(/( |\n|\t)/).filter((part) => part !== "");
  const marks = { " ": "·", "\n": "↵", "\t": "⇥" };
  return parts.map((part) => (part in marks ? h("span", { class: "space" }, marks[part]) : part));
}

/** What to try, in one line: the page's own line before the element, if there is one, says it already. */
function invitation(host, data, otherwise) {
  const before = host.previousElementSibling;
  return before && before.classList.contains("al-try") ? null : host.getAttribute("try") || data.try || otherwise;
}

/** Where this script came from. Data too large for a page stand beside it; empty where it came inline. */
const HERE = (typeof document !== "undefined" && document.currentScript && document.currentScript.src) || "";

/** Data too large for a page, once for all elements: from the classic script NAME.js beside this one, or from the kernel. */
function bring(host, name) {
  const kept = (globalThis.alignlabStatics ||= {});
  if (kept[name]) return Promise.resolve(kept[name]);
  if (host.bring) return host.bring(name).then((data) => (kept[name] = data));
  return new Promise((resolve, reject) => {
    const fail = () => reject(new Error(`${name}.js could not be loaded`));
    if (!HERE) fail();
    else document.head.append(h("script", { src: new URL(`${name}.js`, HERE).href, onload: () => (kept[name] ? resolve(kept[name]) : fail()), onerror: fail }));
  });
}

let serial = 0;

/**
 * A labelled slider: {root, input, set(value)}. `values` lists what it can take; `show(value)` is what it says.
 * The native input does keyboard, touch and assistive technology; we only draw it.
 */
function slider({ label, note, values, value, show, speak, oninput }) {
  const id = `al-${++serial}`;
  const input = h("input", { id, type: "range", min: 0, max: values.length - 1, step: 1 });
  const output = h("output", { for: id, class: "setting" });
  const hint = h("span", { class: "note" }, note || "");
  const root = h("div", { class: "control" }, h("label", { for: id }, label), output, hint, input);
  const draw = () => {
    const at = values[+input.value];
    say(output, show(at));
    input.setAttribute("aria-valuetext", (speak || show)(at));
    input.style.setProperty("--fill", `${(100 * +input.value) / (values.length - 1)}%`);
  };
  const set = (wanted) => {
    const gaps = values.map((v) => (v === wanted ? 0 : Math.abs(v - wanted)));
    input.value = gaps.indexOf(Math.min(...gaps));
    draw();
  };
  input.addEventListener("input", () => {
    draw();
    oninput(values[+input.value]);
  });
  set(value);
  return { root, input, hint, set, get: () => values[+input.value] };
}

/** Evenly spaced numbers from a to b, free of binary dust. */
const range = (a, b, step) => Array.from({ length: Math.round((b - a) / step) + 1 }, (_, i) => +(a + i * step).toFixed(6));

/** Numbers from 10^a to 10^b, evenly spaced in the exponent. */
const powers = (a, b, step) => range(a, b, step).map((x) => +(10 ** x).toPrecision(3));

/** log(1 + e^x), safe for any x. */
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));

/** [lowest, highest] of the values, with some air on both sides. */
function extent(values, air = 0.06) {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (low > high) return [0, 1];
  const more = air * (high - low || 1);
  return [low - more, high + more];
}

/** A number for people: as many digits as its size asks for. */
const brief = (x) => (!Number.isFinite(x) ? "–" : fixed(x, Math.abs(x) >= 100 ? 0 : Math.abs(x) >= 10 ? 1 : Math.abs(x) >= 0.1 ? 2 : 3));

/** Exactly one of several buttons is pressed: {root, set(value)}. */
function choice({ label, options, value, onchoose }) {
  const buttons = options.map(([key, text]) => h("button", { type: "button", class: "chip", onclick: () => { set(key); onchoose(key); } }, text));
  const set = (wanted) => options.forEach(([key], k) => buttons[k].setAttribute("aria-pressed", String(key === wanted)));
  set(value);
  return { root: h("div", { class: "choice", role: "group", "aria-label": label }, buttons), set };
}

/** A figure with its label and unit; note() says something below it. */
function tile(label, unit) {
  const { value, line } = quantity(unit);
  const small = h("small");
  return { value, note: (text) => say(small, text), root: h("div", { class: "figure" }, h("span", null, label), line, small) };
}

/**
 * Two axes with a grid: draw marks in `marks` (clipped) or `over` (not clipped), at x(value), y(value).
 * frame({x, y, xName, yName, ...}) sets what the axes show; it draws them anew only where something changed.
 */
function axes({ height, left = 44, right = 12, top = 10, bottom = 40, attributes }) {
  const id = `al-clip-${++serial}`;
  const clip = s("rect");
  const grid = s("g", { class: "frame", "aria-hidden": "true" });
  const marks = s("g", { "clip-path": `url(#${id})` });
  const over = s("g");
  const svg = s("svg", { height, ...attributes }, s("defs", null, s("clipPath", { id }, clip)), grid, marks, over);
  const self = { svg, marks, over, width: 0, x: null, y: null, frame };
  let drawn = "";
  function frame({ x, y, xName, yName, xTicks, yTicks, xText, yText, warp }) {
    const wide = svg.getBoundingClientRect().width || self.width || 380;
    const key = JSON.stringify([wide, x, y, xName, yName, xTicks, yTicks, warp && warp.name]);
    if (key === drawn) return;
    drawn = key;
    self.width = wide;
    const [l, r, t, b] = [left, wide - right, top, height - bottom];
    const bend = warp || ((v) => v);
    const scale = ([low, high], from, to, f) => (v) => from + ((f(v) - f(low)) / (f(high) - f(low) || 1)) * (to - from);
    self.x = scale(x, l, r, bend);
    self.y = scale(y, b, t, (v) => v);
    self.area = { l, r, t, b };
    svg.setAttribute("viewBox", `0 0 ${wide} ${height}`);
    for (const [name, value] of Object.entries({ x: l, y: t, width: Math.max(0, r - l), height: b - t })) clip.setAttribute(name, value);
    const written = (values, text) => text || ((v) => fixed(v, Math.max(0, Math.min(3, -Math.floor(Math.log10(Math.abs(values[1] - values[0]) || 1) + 1e-9)))));
    const across = xTicks || ticks(...x, Math.max(3, Math.min(7, (r - l) / 50)));
    const up = yTicks || ticks(...y, 5);
    const xs = written(across, xText);
    const ys = written(up, yText);
    grid.replaceChildren(
      ...across.flatMap((v) => [s("line", { class: v === 0 ? "zero" : null, x1: self.x(v), x2: self.x(v), y1: t, y2: b }), s("text", { x: self.x(v), y: b + 16, "text-anchor": "middle" }, xs(v))]),
      ...up.flatMap((v) => [s("line", { class: v === 0 ? "zero" : null, x1: l, x2: r, y1: self.y(v), y2: self.y(v) }), s("text", { x: l - 7, y: self.y(v) + 4, "text-anchor": "end" }, ys(v))]),
      xName ? s("text", { class: "name", x: (l + r) / 2, y: b + 34, "text-anchor": "middle" }, xName) : "",
      yName ? s("text", { class: "name", transform: `translate(11 ${(t + b) / 2}) rotate(-90)`, "text-anchor": "middle" }, yName) : "");
  }
  return self;
}

/** "M… L…" through the points whose coordinates are finite; a gap where they are not. */
function trace(points) {
  let d = "";
  let open = false;
  for (const [x, y] of points) {
    const fine = Number.isFinite(x) && Number.isFinite(y);
    if (fine) d += `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    open = fine;
  }
  return d;
}

/** Draw now, and anew whenever the element gets another width. */
function whenWide(node, redraw) {
  let known = -1;
  const measure = () => {
    const { width } = node.getBoundingClientRect();
    if (width === known) return;
    known = width;
    redraw();
  };
  measure();
  new ResizeObserver(measure).observe(node);
}

/** A table that `packed` (in __init__.py) wrote, as the list of objects that it was; a reviver for JSON.parse. */
function unpacked(key, value) {
  const columns = value && value["@columns"];
  if (!columns) return value;
  return value["@rows"].map((row) => Object.fromEntries(columns.map((name, at) => [name, row[at]])));
}

/** Define an explorer once; later copies of the same script do nothing. */
function define(name, draw, statics) {
  if (typeof customElements === "undefined" || customElements.get(name)) return;
  class Explorer extends HTMLElement {
    #data = null;
    #drawn = false;
    set data(value) {
      this.#data = value && value.stamp && value.data ? value.data : value;
      this.#drawn = false;
      if (this.isConnected) this.#draw();
    }
    get data() {
      return this.#data;
    }
    connectedCallback() {
      if (this.#data === null) this.#read();
      else this.#draw();
    }
    #read() {
      const child = this.querySelector('script[type="application/json"]');
      if (child) this.data = JSON.parse(child.textContent, unpacked);
      else if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => this.#read(), { once: true });
    }
    #draw() {
      if (this.#drawn || !this.#data) return;
      this.#drawn = true;
      const root = this.shadowRoot || this.attachShadow({ mode: "open" });
      root.replaceChildren(h("style", null, SHEET));
      draw(this, root, this.#data);
    }
  }
  Object.assign(Explorer, statics);
  customElements.define(name, Explorer);
}
