// <alignlab-tokenizer>: type a text and see its pieces, its tokens and their ids, merge by merge, with the merges of a real model.
//
// Data: {model, special: [text], bytes: [letter], merges: count, digits: whether each is cut off first, known: [[rank, "left right"]], texts: [{title, text}]}; may be
// added: start {text, piece, step, merges}, try. `known` holds every merge that could be made in one of `texts`: they need no more.
// All merges, for other texts, stand beside this script (smollm2_merges). Letters are GPT-2's alphabet: one for each byte.

const ALPHABET = [];
for (let byte = 0, spare = 256; byte < 256; byte++)
  ALPHABET.push(String.fromCharCode((byte > 32 && byte < 127) || (byte > 160 && byte !== 173) ? byte : spare++));
const BYTE_OF = new Map(ALPHABET.map((letter, byte) => [letter, byte]));
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const UTF8 = new TextEncoder();

/** Byte-level BPE as in alignlab.bpe: {pieces(text)}, each {text, letters, lost, special, steps: [{rank, at, left, right}]}. */
function bpeOf({ special, bytes, ranks, digits }) {
  const idOf = new Map([...special, ...bytes].map((token, id) => [token, id]));
  const first = special.length + bytes.length;
  const longest = [...special].sort((a, b) => b.length - a.length).map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const marks = longest.length ? new RegExp(`(${longest.join("|")})`, "u") : null;
  const seen = new Map();

  function merged(text) {
    if (seen.has(text)) return seen.get(text);
    const all = Array.from(UTF8.encode(text), (byte) => ALPHABET[byte]);
    const letters = all.filter((letter) => idOf.has(letter));
    const symbols = letters.slice();
    const rank = (i) => (i >= 0 && i + 1 < symbols.length ? ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity : Infinity);
    const next = symbols.map((_, i) => rank(i));
    const steps = [];
    for (;;) {
      let at = 0;
      for (let i = 1; i < next.length; i++) if (next[i] < next[at]) at = i;
      if (!next.length || next[at] === Infinity) break;
      steps.push({ rank: next[at], at, left: symbols[at], right: symbols[at + 1] });
      symbols.splice(at, 2, symbols[at] + symbols[at + 1]);
      next.splice(at, 1);
      next[at] = rank(at);
      if (at > 0) next[at - 1] = rank(at - 1);
    }
    const piece = { text, letters, lost: all.filter((letter) => !idOf.has(letter)).map((letter) => BYTE_OF.get(letter)), special: false, steps };
    if (seen.size < 5000) seen.set(text, piece);
    return piece;
  }

  function pieces(text) {
    const parts = marks ? text.split(marks) : [text];
    const cut = (part) => (digits ? part.split(/(\p{N})/u) : [part]).flatMap((one) => Array.from(one.matchAll(PIECES), ([piece]) => merged(piece)));
    return parts.flatMap((part, k) => (k % 2 ? [{ text: part, letters: [part], lost: [], special: true, steps: [] }] : cut(part)));
  }

  /** A piece's tokens after its first `count` merges: [{name, id}]. */
  function tokens(piece, count = piece.steps.length) {
    const made = piece.letters.map((name) => ({ name, id: idOf.get(name) }));
    for (const { rank, at, left, right } of piece.steps.slice(0, count)) made.splice(at, 2, { name: left + right, id: first + rank });
    return made;
  }
  return { pieces, tokens, ids: (text) => pieces(text).flatMap((piece) => tokens(piece).map((token) => token.id)) };
}

/** How many of a piece's merges are made where only the first `limit` merges have been learned. */
function reached(piece, limit) {
  const end = piece.steps.findIndex((step) => step.rank >= limit);
  return end < 0 ? piece.steps.length : end;
}

/** Places on the way from no merge to all of them at which the text loses a token: ascending, one entry for each token lost. */
function falls(pieces) {
  const places = [];
  for (const piece of pieces) {
    let most = 0;
    for (const { rank } of piece.steps) places.push((most = Math.max(most, rank + 1)));
  }
  return places.sort((a, b) => a - b);
}

/** A token in letters as a reader sees it; bytes that are no whole character in hexadecimal. */
function shownToken(name, special) {
  if (special) return name;
  const bytes = Uint8Array.from(name, (letter) => BYTE_OF.get(letter));
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return text.replace(/ /g, "·").replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/\p{C}|\p{Z}/gu, (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
  } catch {
    return Array.from(bytes, (byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
  }
}

/** The table of a packed file: special tokens, bytes, and every merge with its rank. */
async function unpackedMerges(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const [special, letters, ...merges] = text.trimEnd().split("\n");
  return { special: special.split(" "), bytes: letters.split(" "), ranks: new Map(merges.map((merge, rank) => [merge, rank])) };
}

const LONGEST = 240;

function tokenizerExplorer(host, root, data) {
  const start = data.start || {};
  let bpe = bpeOf({ special: data.special, bytes: data.bytes, ranks: new Map(data.known.map(([rank, pair]) => [pair, rank])), digits: data.digits });
  let complete = false;
  const given = new Set(data.texts.map((one) => one.text));
  const limits = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 30000, 40000].filter((n) => n < data.merges).concat(data.merges);
  let text = data.texts[start.text || 0].text;
  let limit = start.merges ?? data.merges;
  let [which, step] = [start.piece || 0, start.step ?? 0];
  let pieces = bpe.pieces(text);
  let problem = "";

  const [pickId, textId] = [`al-text-${++serial}`, `al-typed-${serial}`];
  const select = h("select", { id: pickId, onchange: () => { typed.value = data.texts[+select.value].text; read(); } }, data.texts.map((one, k) => h("option", { value: k, selected: k === (start.text || 0) }, one.title)));
  const typed = h("textarea", { id: textId, rows: 2, maxlength: LONGEST, spellcheck: "false", autocapitalize: "off", autocomplete: "off", oninput: () => read() });
  typed.value = text;
  const limitSlider = slider({ label: "Merges learned", values: limits, value: limit, show: (v) => count(v), speak: (v) => `${count(v)} merges`, oninput: (v) => { limit = v; update(); } });
  const pieceHolder = h("div");
  const stepHolder = h("div");
  const tokensPane = h("div", { class: "tokens", tabindex: 0, role: "region", "aria-label": "The tokens of the text" });
  const idsPane = h("p", { class: "ids", tabindex: 0, role: "region", "aria-label": "Token ids" });
  const ladder = h("ol", { class: "ladder", tabindex: 0, "aria-label": "The merges of the piece" });
  const heading = h("p", { class: "heading" });
  const tiles = { characters: tile("Characters", ""), bytes: tile("Bytes in UTF-8", ""), tokens: tile("Tokens", ""), ratio: tile("Bytes a token", "") };
  const chart = axes({ height: 250, left: 46, attributes: { role: "img", class: "falls" } });
  const title = s("title");
  chart.svg.prepend(title);
  const line = s("path", { class: "line" });
  const dot = s("circle", { r: 6 });
  chart.marks.append(line);
  chart.over.append(dot);
  const verdict = h("p", { class: "verdict", role: "status" });
  const attempt = invitation(host, data, "Type your name. Then take merges away until only bytes are left.");
  let stepSlider = null;
  let buttons = [];

  root.append(h("section", { class: "explorer bpe", "aria-label": "Explorer: a tokenizer" },
    h("header", null, h("div", { class: "pick" }, h("label", { for: pickId }, "Text"), select), h("div", { class: "knob" }, limitSlider.root)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "typing" }, h("label", { for: textId }, "Type any text"), typed),
    tokensPane, idsPane,
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    h("div", { class: "body" },
      h("div", { class: "one" }, heading, pieceHolder, stepHolder, ladder),
      h("figure", null, h("figcaption", null, "Tokens of this text, by how many merges were learned"), chart.svg)),
    verdict,
    h("footer", null, `The ${count(data.merges)} merges of ${data.model}, learned first to last, over ${data.bytes.length} bytes and ${data.special.length} special tokens. A frame is a piece, which no token crosses; each shade is a token.`)));

  const tokensOf = (piece, most = reached(piece, limit)) => bpe.tokens(piece, most);

  function chips(tokens, special) {
    return tokens.map(({ name, id }, k) => h("span", { class: `chip-token shade-${k % 3}${special ? " special" : ""}`, title: `id ${id}` }, shownToken(name, special)));
  }

  /** A new text: its pieces, and sliders as long as they need to be. */
  function read() {
    text = typed.value;
    problem = !complete && !given.has(text) ? "The merges are on their way; until then only the texts of the list are right." : "";
    pieces = bpe.pieces(text);
    choose(Math.min(which, Math.max(0, pieces.length - 1)), Infinity);
  }

  function choose(k, at) {
    which = k;
    const steps = pieces[which] ? pieces[which].steps.length : 0;
    step = Math.min(at, steps);
    const active = root.activeElement;
    const kept = active && pieceHolder.contains(active);
    if (!kept) pieceHolder.replaceChildren(slider({ label: "Piece", values: range(1, Math.max(2, pieces.length), 1), value: which + 1, show: (v) => `${Math.min(v, pieces.length)} of ${pieces.length}`, oninput: (v) => choose(Math.min(v, pieces.length) - 1, Infinity) }).root);
    stepSlider = slider({ label: "Merge", values: range(0, Math.max(1, steps), 1), value: step, show: (v) => `${Math.min(v, steps)} of ${steps}`, oninput: (v) => { step = Math.min(v, steps); update(); } });
    stepHolder.replaceChildren(stepSlider.root);
    update();
  }

  function drawChart(places, letters) {
    const widest = data.merges;
    const bend = function merges(v) { return Math.log10(v + 1); };
    chart.frame({ x: [0, widest], y: [0, Math.max(4, letters)], warp: bend, xTicks: [0, 10, 100, 1000, 10000, widest].filter((v, k, all) => k === all.length - 1 || v < widest / 2), xText: (v) => (v >= 1000 ? `${Math.round(v / 1000)}k` : String(v)), xName: "merges learned (logarithmic)" });
    const spots = [[chart.x(0), chart.y(letters)]];
    places.forEach((place, k) => {
      const x = chart.x(place);
      spots.push([x, chart.y(letters - k)], [x, chart.y(letters - k - 1)]);
    });
    spots.push([chart.x(widest), chart.y(letters - places.length)]);
    line.setAttribute("d", trace(spots));
    const now = letters - places.filter((place) => place <= limit).length;
    dot.setAttribute("cx", chart.x(limit).toFixed(1));
    dot.setAttribute("cy", chart.y(now).toFixed(1));
    say(title, `With ${count(limit)} merges the text has ${now} tokens, with none ${letters}, with all ${letters - places.length}.`);
    return now;
  }

  function update() {
    const began = performance.now();
    const every = pieces.map((piece) => tokensOf(piece));
    buttons = pieces.map((piece, k) => h("button", { type: "button", class: "piece-button", tabindex: -1, "aria-pressed": String(k === which), onclick: () => choose(k, Infinity) }, chips(every[k], piece.special)));
    tokensPane.replaceChildren(...buttons);
    const ids = every.flat().map((token) => token.id);
    const learned = limit === data.merges;
    idsPane.replaceChildren(h("b", null, learned ? "Ids" : "Ids in the full vocabulary"), ` ${ids.join(" ")}`);
    const letters = pieces.reduce((sum, piece) => sum + piece.letters.length, 0);
    const lost = pieces.flatMap((piece) => piece.lost);
    const bytes = UTF8.encode(text).length;
    const now = drawChart(falls(pieces), letters);
    tiles.characters.value(count(Array.from(text).length));
    tiles.bytes.value(count(bytes));
    tiles.bytes.note(lost.length ? `${lost.length} lost: 0x${lost[0].toString(16).padStart(2, "0")}` : "");
    tiles.tokens.value(count(now));
    tiles.tokens.note(`${pieces.length} ${pieces.length === 1 ? "piece" : "pieces"}`);
    tiles.ratio.value(now ? fixed(bytes / now, 2) : "–");

    const piece = pieces[which];
    heading.replaceChildren(...(piece ? ["Piece ", h("code", null, shownToken(piece.special ? piece.text : piece.letters.join(""), piece.special))] : ["No piece"]));
    const rows = piece ? range(0, piece.steps.length, 1) : [];
    ladder.replaceChildren(...rows.filter((k) => k <= step).map((k) => {
      const made = k ? piece.steps[k - 1] : null;
      const said = piece.special ? "a special token: looked up whole" : made ? `merge ${count(made.rank + 1)}: ${shownToken(made.left)} + ${shownToken(made.right)}` : piece.letters.length === 1 ? "one byte: a token already" : "its bytes";
      return h("li", { class: k === step ? "now" : "" }, h("span", { class: "state" }, chips(tokensOf(piece, k), piece.special)), h("span", { class: "why" }, said));
    }));
    ladder.scrollTop = ladder.scrollHeight;
    const best = piece ? tokensOf(piece, piece.steps.length) : [];
    say(verdict, problem || (piece ? (best.length === 1 ? `In the whole vocabulary this piece is one token, id ${best[0].id}.` : `With all merges this piece is ${best.length} tokens: ids ${best.slice(0, 8).map((token) => token.id).join(", ")}${best.length > 8 ? ", …" : ""}.`) : "Type something."));
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, ids, tokens: now, pieces: pieces.length, lost, complete } }));
  }

  /** All merges come when the figure comes near, or is used. */
  let asked = false;
  const load = () => {
    if (asked) return;
    asked = true;
    bring(host, "smollm2_merges").then(unpackedMerges).then((table) => {
      bpe = bpeOf({ ...table, digits: data.digits });
      complete = true;
      problem = "";
      const [k, at] = [which, step];
      pieces = bpe.pieces(text);
      if (given.has(text)) choose(k, at);
      else read();
    }, (error) => {
      asked = false;
      problem = `The merges are not here (${error.message}); the texts of the list are right without them.`;
      update();
    });
  };
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && load(), { rootMargin: "300px" }).observe(host);
  for (const use of ["focusin", "pointerdown"]) root.addEventListener(use, load);
  choose(which, step || Infinity);
  whenWide(chart.svg, update);
}

define("alignlab-tokenizer", tokenizerExplorer, { bpeOf, reached, falls, shownToken, unpackedMerges });
