// <alignlab-tiny_live>: the model `tiny` running in the page, under every decoding strategy, token by token.
//
// Data: {prompts: [{title, kind: "chat" or "text", text}], start: {prompt, seed, and settings as in PLAIN}, model, try}.

const MOST = 60; // new tokens
const ALTERNATIVES = 8;
const LINES = 5;
const SLICE = 7; // milliseconds of a frame that the model may take
const WAYS = [
  ["Greedy", { temperature: 0 }], ["Sampling", {}], ["Temperature 2", { temperature: 2 }], ["2, top-k 5", { temperature: 2, topK: 5 }],
  ["2, top-p 0.9", { temperature: 2, topP: 0.9 }], ["2, min-p 0.1", { temperature: 2, minP: 0.1 }], ["2, typical 0.9", { temperature: 2, typical: 0.9 }],
  ["Penalty 1.5", { temperature: 0, penalty: 1.5 }], ["Beams 5", { beams: 5 }],
];
const SHORT = { penalty: "penalty", temperature: "T", topK: "k", topP: "p", minP: "min-p", typical: "typical", beams: "beams" };

/** The ids of a prompt, or an error that says what is wrong with it. */
function promptIds(model, kind, text) {
  if (kind === "chat" && !text.trim()) throw new Error("The question is empty: type one.");
  const ids = model.tokenizer.encode(kind === "chat" ? model.chat.join(text) : text);
  if (!ids.length) throw new Error("The text is empty: type its beginning.");
  const fits = model.config.max_position_embeddings - MOST;
  if (ids.length > fits) throw new Error(`The prompt is ${ids.length} tokens long; ${fits} and ${MOST} new ones fill the context. Shorten it.`);
  return ids;
}

function tinyLive(host, root, data) {
  const start = { ...PLAIN, ...data.start, topK: data.start?.topK || Infinity };
  let settings = Object.fromEntries(Object.keys(PLAIN).map((key) => [key, start[key]]));
  let model = null; // until its weights are here
  let state = null; // its KV cache
  let prompt = [];
  let problem = "";
  let given = []; // tokens that the reader has told it to say
  let job = null; // what is left to do, a forward pass a turn
  let run = { path: [] };
  let going = true; // without being asked for each step
  let at = null; // the place looked at; null: the last
  let pulse = 0;
  let due = 0; // when the next token may come
  let speed = { tokens: 0, seconds: 0 };
  let earlier = [];

  // Prompt.
  const askId = `al-ask-${++serial}`;
  const ask = h("input", { id: askId, type: "text", maxlength: 600, autocomplete: "off", spellcheck: "false", "aria-label": "Prompt", oninput: () => anew() });
  let kind = "chat";
  const kinds = choice({ label: "What the prompt is", options: [["chat", "Question"], ["text", "Text to go on with"]], value: kind, onchoose: (wanted) => { kind = wanted; anew(); } });
  const examples = h("select", { "aria-label": "Examples", onchange: () => { example(+examples.value); anew(); } }, data.prompts.map((one, i) => h("option", { value: i }, one.title || one.text)));
  const example = (i) => {
    const one = data.prompts[i];
    examples.value = i;
    ask.value = one.text;
    kind = one.kind;
    kinds.set(kind);
  };
  example(start.prompt || 0);

  // Settings.
  const off = (key, digits) => (v) => (v === PLAIN[key] ? "off" : fixed(v, digits));
  const setting = (key, label, values, show) => slider({ label, values, value: settings[key], show, oninput: (value) => adopt({ ...settings, [key]: value }) });
  const control = {
    penalty: setting("penalty", "Repetition penalty", range(1, 2, 0.05), off("penalty", 2)),
    temperature: setting("temperature", "Temperature", range(0, 3, 0.1), (v) => (v === 0 ? "greedy" : fixed(v, 1))),
    topK: setting("topK", "Top-k", [1, 2, 3, 4, 5, 8, 12, 20, 50, 100, Infinity], (v) => (v === Infinity ? "off" : String(v))),
    topP: setting("topP", "Top-p", range(0.05, 1, 0.05), off("topP", 2)),
    minP: setting("minP", "Min-p", range(0, 0.5, 0.02), off("minP", 2)),
    typical: setting("typical", "Typical", range(0.05, 1, 0.05), off("typical", 2)),
    beams: setting("beams", "Beams", [1, 2, 3, 4, 5], (v) => (v === 1 ? "off" : String(v))),
  };
  const pace = slider({ label: "Pace", values: [1, 2, 4, 8, 16, 32, Infinity], value: Infinity, show: (v) => (v === Infinity ? "full" : `${v}/s`), oninput: wake });
  const presets = h("div", { class: "presets", role: "group", "aria-label": "Strategies" }, WAYS.map(([name, values]) => h("button", { type: "button", class: "chip", onclick: () => {
    adopt({ ...PLAIN, ...values });
    for (const [key, one] of Object.entries(control)) one.set(settings[key]);
  } }, name)));

  // Run, step, seed.
  const button = (name, quiet, onclick) => h("button", { type: "button", class: quiet ? "action quiet" : "action", onclick }, name);
  const play = button("Run", false, () => {
    if (going && job) going = false;
    else {
      if (!job) restart();
      going = true;
    }
    update();
    wake();
  });
  play.style.minWidth = "64px";
  const stepOn = button("Step", true, () => {
    going = false;
    if (!job) {
      given = [];
      restart();
    }
    const before = run.path.length;
    while (job && run.path.length === before) turn();
    at = null;
    update();
  });
  const seedId = `al-seed-${++serial}`;
  const seed = h("input", { id: seedId, type: "number", min: 0, max: 99999, step: 1, value: start.seed ?? 1, inputmode: "numeric", oninput: () => { given = []; restart(); } });
  const again = button("Next seed", true, () => {
    seed.value = (Number(seed.value) || 0) + 1;
    given = [];
    going = true;
    restart();
  });

  // What it has read and said.
  const read_ = h("span");
  const said = h("span", { class: "said", role: "listbox", tabindex: 0, "aria-label": "What tiny says, token by token",
    onkeydown: (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (!step) return;
      event.preventDefault();
      look(place() + step);
    },
    onclick: (event) => {
      const option = event.target.closest("[role=option]");
      if (option) look([...said.children].indexOf(option));
    } });
  const context = h("div", { class: "context" }, read_, said);
  const place = () => (at === null ? run.path.length - 1 : Math.min(at, run.path.length - 1));
  const look = (wanted) => {
    at = Math.max(0, Math.min(run.path.length - 1, wanted));
    update();
  };

  // The alternatives at the place looked at.
  const rows = Array.from({ length: ALTERNATIVES }, () => {
    const parts = { id: -1, token: h("button", { type: "button", class: "pickable", onclick: () => tell(parts.id) }), ghost: h("i", { class: "ghost" }), bar: h("i", { class: "bar" }),
      rule: h("span", { class: "rule" }), was: h("span", { class: "was", role: "cell" }), now: h("span", { class: "now", role: "cell" }) };
    parts.row = h("div", { class: "row", role: "row" }, h("span", { class: "name", role: "rowheader" }, parts.token),
      h("span", { class: "lane", role: "cell" }, parts.ghost, parts.bar, parts.rule), parts.was, parts.now);
    return parts;
  });
  const title = h("span", { class: "name", role: "columnheader" }, "token 1");
  const bars = h("div", { class: "bars", role: "table", "aria-label": "The likeliest tokens at this place; press one to go on with it" },
    h("div", { class: "row head", role: "row" }, title, h("span", { class: "lane", role: "columnheader" }, "press one to say it instead"),
      h("span", { class: "was", role: "columnheader" }, "model"), h("span", { class: "now", role: "columnheader" }, "here")),
    h("div", { class: "stage", role: "rowgroup" }, rows.map((parts) => parts.row)));

  const figures = { entropy: tile("Entropy", "nats"), kept: tile("Kept", "tokens"), text: tile("Text so far", "nats"), speed: tile("Speed", "tokens/s") };
  const plot = axes({ height: 240, bottom: 24, top: 6, attributes: { role: "img", "aria-label": "Surprise and entropy of each token, in nats" } });
  const curve = { entropy: s("path", { class: "entropy" }), surprise: s("path", { class: "surprise" }) };
  plot.marks.append(curve.entropy, curve.surprise);
  const linesTitle = h("span");
  const list = Array.from({ length: LINES }, () => {
    const parts = { score: h("b"), how: h("em"), text: h("code") };
    parts.row = h("li", null, parts.score, parts.how, parts.text);
    return parts;
  });
  const spoken = h("p", { class: "unseen", role: "status" });
  const attempt = invitation(host, data);
  const key = (name, className) => h("span", null, h("i", { class: className }), ` ${name}`);
  root.append(h("section", { class: "explorer tiny", "aria-label": "Explorer: tiny, running in this page" },
    h("header", null, h("div", { class: "ask" }, kinds.root, ask, examples)), presets,
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    context,
    h("div", { class: "chances" }, h("span", null, "Chance of each token:"), key("over 90%", "c0"), key("50–90%", "c1"), key("20–50%", "c2"), key("5–20%", "c3"), key("under 5%", "c4")),
    h("div", { class: "body" },
      h("div", { class: "left" }, bars, h("figure", { class: "plots" }, h("figcaption", null, h("span", null, "Nats, token by token"), h("span", { class: "legend" },
        h("span", null, h("i", { class: "key final" }), "surprise"), h("span", null, h("i", { class: "key raw" }), "entropy"))), plot.svg)),
      h("div", { class: "right" }, h("ol", { class: "steps", "aria-label": "Settings" }, Object.values(control).map((one) => h("li", null, one.root))),
        h("div", { class: "sampling" }, h("div", { class: "buttons" }, play, stepOn, again, h("span", { class: "seeded" }, h("label", { for: seedId }, "Seed"), seed)), pace.root)),
      h("div", { class: "figures" }, Object.values(figures).map((one) => one.root)),
      h("figure", { class: "lines" }, h("figcaption", null, linesTitle), h("ol", null, list.map((parts) => parts.row)))),
    h("footer", null, data.model || "tiny", ". Its int8 weights and its arithmetic are in this page: no server, no kernel."),
    spoken));

  /** The prompt has changed: nothing of the last answer holds. */
  function anew() {
    given = [];
    earlier = [];
    going = true;
    restart();
  }

  /** Other settings: a reader who goes step by step keeps what has been said, everyone else sees it said anew. */
  function adopt(wanted) {
    const goesOn = job && !going && wanted.beams === 1 && settings.beams === 1;
    settings = wanted;
    if (goesOn) update();
    else restart();
  }

  /** From the prompt on, with the settings as they are; the cache keeps what still holds. */
  function restart() {
    at = null;
    run = { path: [] };
    job = null;
    problem = "";
    if (model) {
      try {
        prompt = promptIds(model, kind, ask.value);
        const random = mulberry32(Number(seed.value) || 0);
        const chances = Array.from({ length: MOST }, random);
        const plan = { prompt, given, most: MOST, chance: (t) => chances[t], get settings() { return settings; } };
        state = state || model.start();
        job = (settings.beams > 1 ? beamed : sampled)(model, state, run, plan);
      } catch (error) {
        prompt = [];
        problem = error.message;
      }
    }
    due = 0;
    update();
    wake();
  }

  /** Say this token at the place looked at, whatever the strategy says, and go on from there. */
  function tell(id) {
    if (id < 0 || place() < 0) return;
    const here = place();
    given = [...run.path.slice(0, here).map((one) => one.id), id];
    going = true;
    restart();
    at = here;
  }

  /** One forward pass. */
  function turn() {
    const before = model.done.passes;
    const began = performance.now();
    const { done } = job.next();
    speed.seconds += (performance.now() - began) / 1000;
    speed.tokens += model.done.passes - before;
    if (speed.seconds > 0.25) speed = { tokens: speed.tokens / 2, seconds: speed.seconds / 2 }; // the older, the less it counts
    if (done) finish();
  }

  function finish() {
    job = null;
    // What is worth a look: the place where most could have been said.
    if (at === null) at = run.path.reduce((best, one, i) => (uncertain(one) > uncertain(run.path[best]) ? i : best), 0);
    const text = model.tokenizer.decode(run.path.map((one) => one.id));
    say(spoken, text);
    if (run.lines || !run.path.length) return;
    const how = Object.keys(PLAIN).filter((name) => settings[name] !== PLAIN[name]).map((name) => `${SHORT[name]} ${settings[name]}`);
    const label = [settings.temperature === 0 ? "greedy" : `seed ${seed.value}`, ...how.filter((one) => one !== "T 0")].join(", ");
    const same = earlier.findIndex((one) => one.label === label && one.text === text);
    if (same >= 0) earlier.splice(same, 1);
    earlier = [{ label, text, score: total(run.path) }, ...earlier].slice(0, LINES);
  }

  /** Work for a slice of each frame, so that the page stays free. */
  function wake() {
    if (!pulse && job && going) pulse = requestAnimationFrame(work);
  }

  function work() {
    pulse = 0;
    if (!going || !job || !host.isConnected) return;
    const until = performance.now() + SLICE;
    const gap = pace.get() === Infinity ? 0 : 1000 / pace.get();
    while (job && performance.now() < until && performance.now() >= due) {
      const before = run.path.length;
      turn();
      if (run.path.length > before) due = performance.now() + gap;
    }
    update();
    wake();
  }

  /** log-probability of each token that was said, under the model itself, once. */
  function chanceOf(one) {
    one.p ??= softmax(one.logits)[one.id];
    return one.p;
  }
  /** Entropy in nats of what the model could have said there, once. */
  function uncertain(one) {
    one.entropy ??= entropyOf(softmax(one.logits));
    return one.entropy;
  }
  const total = (path) => path.reduce((sum, one) => sum + Math.log(chanceOf(one)), 0);
  const written = (id) => {
    const text = model.tokenizer.decode([id]);
    return text.includes("\ufffd") ? `#${id}` : text;
  };

  function update() {
    const began = performance.now();
    say(play, going && job ? "Stop" : "Run");
    for (const [name, one] of Object.entries(control)) one.root.classList.toggle("off", settings[name] === PLAIN[name] || (settings.beams > 1 && !["beams", "penalty"].includes(name)));
    drawPlot(); // first: it measures, before anything has changed
    drawContext();
    drawBars();
    drawLines();
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, ids: run.path.map((one) => one.id), running: Boolean(job && going) } }));
  }

  let shown = "";
  let length = 0;
  function drawContext() {
    const told = problem || (model ? "" : "Loading the weights of tiny …");
    const wanted = told || prompt.join();
    if (wanted !== shown) {
      shown = wanted;
      read_.className = told ? "problem" : "";
      read_.replaceChildren(...(told ? [told] : prompt.flatMap((id) => [h("span", { class: id < 3 ? "piece special" : "piece" }, tokenText(written(id))), h("wbr")])));
      said.replaceChildren();
    }
    const { path } = run;
    while (said.children.length > Math.max(1, path.length)) said.lastChild.remove();
    for (let i = 0; i < Math.max(1, path.length); i++) {
      const one = path[i];
      const option = said.children[i] || said.appendChild(h("span", { role: "option", id: `${askId}-${i}` }));
      if (option.token !== one) {
        option.token = one;
        const rarity = one ? [0.9, 0.5, 0.2, 0.05].filter((limit) => chanceOf(one) < limit).length : 0;
        option.className = one ? `piece c${rarity}${one.given ? " told" : ""}` : "";
        option.title = one ? `${percent(chanceOf(one))}` : "";
        option.replaceChildren(h("wbr"), ...(one ? tokenText(written(one.id)) : ["\u200b"])); // a line breaks between tokens, so that none moves
      }
      if (one) option.removeAttribute("aria-label");
      else option.setAttribute("aria-label", "nothing said yet");
      const selected = String(i === Math.max(0, place()));
      if (option.getAttribute("aria-selected") !== selected) option.setAttribute("aria-selected", selected);
    }
    said.setAttribute("aria-activedescendant", `${askId}-${Math.max(0, place())}`);
    if (length !== path.length) context.scrollTop = context.scrollHeight;
    length = path.length;
  }

  function drawBars() {
    const one = run.path[place()];
    say(title, one ? `token ${place() + 1}` : "token");
    if (!one) {
      for (const parts of rows) parts.row.style.visibility = "hidden";
      for (const name of ["entropy", "kept", "text", "speed"]) { figures[name].value("–"); figures[name].note(""); }
      return;
    }
    const cut = [];
    const raw = softmax(one.logits);
    const beam = settings.beams > 1;
    const values = beam ? one.logits : processed(one.logits, [...prompt, ...run.path.slice(0, place()).map((each) => each.id)], settings, cut);
    const p = !beam && settings.temperature === 0 ? values.map((_, i) => (i === likeliest(values) ? 1 : 0)) : softmax(values);
    const order = Array.from(raw.keys()).sort((a, b) => raw[b] - raw[a] || a - b).slice(0, ALTERNATIVES);
    if (!order.includes(one.id)) order[ALTERNATIVES - 1] = one.id;
    const full = Math.max(0.02, ...order.map((id) => Math.max(raw[id], p[id])));
    rows.forEach((parts, r) => {
      const id = order[r];
      parts.row.style.visibility = "visible";
      if (parts.id !== id) {
        parts.id = id;
        parts.token.replaceChildren(h("span", { class: "token" }, tokenText(written(id))));
        parts.token.setAttribute("aria-label", `Go on with ${JSON.stringify(written(id))} instead`);
      }
      parts.row.classList.toggle("picked", id === one.id);
      parts.row.classList.toggle("gone", p[id] === 0);
      parts.ghost.style.width = `${(100 * raw[id]) / full}%`;
      parts.bar.style.width = `${(100 * p[id]) / full}%`;
      say(parts.rule, cut[id] ? `cut: ${cut[id]}` : "");
      parts.rule.style.transform = `translateX(${Math.min(45, (100 * raw[id]) / full)}%)`;
      say(parts.was, percent(raw[id]));
      say(parts.now, p[id] === 0 ? "0" : percent(p[id]));
    });
    const sum = total(run.path);
    figures.entropy.value(fixed(Math.abs(entropyOf(p)), 2));
    figures.entropy.note(`model ${fixed(entropyOf(raw), 2)}`);
    figures.kept.value(count(p.reduce((n, each) => n + (each > 0), 0)));
    figures.kept.note(`of ${count(raw.length)}`);
    figures.text.value(fixed(sum, 2));
    figures.text.note(`${fixed(sum / run.path.length, 2)} a token, ${run.path.length} tokens`);
    figures.speed.value(speed.seconds ? count(speed.tokens / speed.seconds) : "–");
    figures.speed.note("one thread, this page");
  }

  function drawPlot() {
    const ends = Math.max(24, run.path.length);
    plot.frame({ x: [0.5, ends + 0.5], y: [0, 8], xTicks: [1, ...range(10, 60, 10).filter((n) => n <= ends)], yTicks: [0, 2, 4, 6, 8], xText: String });
    curve.entropy.setAttribute("d", trace(run.path.map((one, i) => [plot.x(i + 1), plot.y(uncertain(one))])));
    curve.surprise.setAttribute("d", run.path.map((one, i) => `M${plot.x(i + 1).toFixed(1)} ${plot.y(0)}V${plot.y(Math.max(0.06, Math.min(8, -Math.log(chanceOf(one))))).toFixed(1)}`).join(""));
  }

  function drawLines() {
    const beam = settings.beams > 1;
    say(linesTitle, beam ? "Beams, with log-probability per token" : "Said to this prompt, with log-probability");
    const lines = beam ? (run.lines || []).slice(0, LINES).map((one) => ({ score: one.score, label: one.finished ? "finished" : "running", text: model.tokenizer.decode(one.path.map((each) => each.id)) })) : earlier;
    list.forEach((parts, i) => {
      const one = lines[i];
      say(parts.score, one ? fixed(one.score, beam ? 3 : 2) : "\u200b");
      say(parts.how, one ? one.label : "");
      say(parts.text, one ? one.text.replace(/\n/g, "↵") : "");
    });
  }

  /** The weights come when the figure comes near, or is used. */
  let asked = false;
  const load = () => {
    if (asked) return;
    asked = true;
    bring(host, "tiny_weights").then((packed) => {
      model = modelOf(packed);
      restart();
    }, (error) => {
      asked = false;
      problem = `The weights of tiny are not here: ${error.message}.`;
      update();
    });
  };
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && load(), { rootMargin: "300px" }).observe(host);
  for (const kindOfUse of ["focusin", "pointerdown"]) root.addEventListener(kindOfUse, load);
  whenWide(plot.svg, update);
}

define("alignlab-tiny_live", tinyLive, { modelOf, tokenizerOf, processed, softmax, entropyOf, sampled, beamed, promptIds, read });
