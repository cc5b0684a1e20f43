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
function invitation(host, data) {
  const before = host.previousElementSibling;
  return before && before.classList.contains("al-try") ? null : host.getAttribute("try") || data.try;
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
      if (child) this.data = JSON.parse(child.textContent);
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
