// <alignlab-cot_cost>: what tokens buy. Accuracy of a vote of n chains over its tokens, and the real chains of one problem.
//
// Data: {groups: [{name, problems, steps: [{n, tokens, accuracy, low, high}], direct: [the same], others: [{name, tokens,
// accuracy}], traces: [{question, value, chains: [[text, marks, tokens, answer]], direct: [answers], direct_tokens}]}]}.
// marks: a letter for each equation of the text, r right, s slip, x stray. May be added: start: {group, votes, problem}.

/** The answer with the most votes, the earliest of equals; null (no answer) is no vote. */
function majority(answers) {
  const votes = new Map();
  for (const answer of answers) if (answer !== null) votes.set(answer, (votes.get(answer) || 0) + 1);
  let best = null;
  for (const [answer, count] of votes) if (best === null || count > votes.get(best)) best = answer;
  return best;
}

/** n choose k. */
function choose(n, k) {
  if (k < 0 || k > n) return 0;
  let product = 1;
  for (let i = 1; i <= k; i++) product = (product * (n - k + i)) / i;
  return product;
}

/** Share of all subsets of `votes` answers whose majority is right; a tie counts as the chance of its lot. */
function voteAtN(answers, right, votes) {
  const counts = new Map();
  for (const answer of answers) counts.set(answer, (counts.get(answer) || 0) + 1);
  if (!counts.has(right)) return 0;
  const others = [...counts].filter(([answer]) => answer !== right).map(([, count]) => count);
  let total = 0;
  for (let most = 1; most <= Math.min(votes, counts.get(right)); most++) {
    // table[used][tied]: ways to have cast so many votes, with so many others level with the right answer
    let table = new Map([[`${most},0`, [most, 0, choose(counts.get(right), most)]]]);
    for (const count of others) {
      const grown = new Map();
      for (const [used, tied, value] of table.values()) {
        for (let times = 0; times <= Math.min(most, votes - used, count); times++) {
          const [u, t] = [used + times, tied + (times === most ? 1 : 0)];
          const cell = grown.get(`${u},${t}`);
          if (cell) cell[2] += value * choose(count, times);
          else grown.set(`${u},${t}`, [u, t, value * choose(count, times)]);
        }
      }
      table = grown;
    }
    for (const [used, tied, value] of table.values()) if (used === votes) total += value / (tied + 1);
  }
  return total / choose(answers.length, votes);
}

/** Accuracy at a number of tokens, between the points of a curve in proportion; flat beyond its ends. */
function accuracyAt(points, tokens) {
  if (tokens <= points[0].tokens) return points[0].accuracy;
  for (let k = 1; k < points.length; k++) {
    const [a, b] = [points[k - 1], points[k]];
    if (tokens <= b.tokens) return a.accuracy + ((b.accuracy - a.accuracy) * (tokens - a.tokens)) / (b.tokens - a.tokens);
  }
  return points[points.length - 1].accuracy;
}

const log10 = (x) => Math.log10(Math.max(1e-9, x));

function cotCost(host, root, data) {
  const start = data.start || {};
  const most = Math.max(...data.groups.map((group) => group.steps.length));
  const many = Math.max(...data.groups.map((group) => group.traces.length));
  const rows = Math.max(...data.groups.flatMap((group) => group.traces.map((one) => one.chains.length)));
  let group = data.groups[start.group ?? 0] || data.groups[0];
  let votes = Math.min(most, Math.max(1, start.votes || 1));
  let place = Math.min(many - 1, start.problem ?? Math.floor(many / 2));

  const range1 = (n) => Array.from({ length: n }, (_, k) => k + 1);
  const voteSlider = slider({ label: "Chains that vote", values: range1(most), value: votes, show: String, speak: (v) => `${v} chains`, oninput: (v) => { votes = v; update(); } });
  const placeSlider = slider({ label: "Problem", note: "from easy to hard", values: range1(many), value: place + 1, show: (v) => `${v} of ${many}`, oninput: (v) => { place = v - 1; update(); } });
  const groupChoice = choice({ label: "Size of the problems", options: data.groups.map((one, k) => [k, one.name]), value: data.groups.indexOf(group), onchoose: (k) => { group = data.groups[k]; update(); } });

  const chart = axes({ height: 300, left: 46, attributes: { role: "img", class: "cost" } });
  const title = s("title");
  chart.svg.prepend(title);
  const series = ["steps", "direct"].map((name) => ({ name, band: s("path", { class: `band ${name}` }), line: s("path", { class: `line ${name}` }), dot: s("circle", { class: name, r: 6 }) }));
  const letters = Math.max(...data.groups.map((one) => one.others.length));
  const marks = Array.from({ length: letters }, () => [s("rect", { class: "other", width: 9, height: 9 }), s("text", { class: "letter" })]);
  chart.marks.append(...series.map((one) => one.band), ...series.map((one) => one.line));
  chart.over.append(...marks.flat(), ...series.map((one) => one.dot));
  const named = Array.from({ length: letters }, () => h("li"));

  const tiles = { vote: tile("The vote says", ""), tokens: tile("It cost", "tokens"), all: tile("Right, all problems", ""), direct: tile("Direct, same tokens", "") };
  const question = h("p", { class: "question" });
  const tally = Array.from({ length: 5 }, () => {
    const bar = h("i");
    const [name, number] = [h("b"), h("span")];
    return { name, number, bar, root: h("div", { class: "tally" }, name, h("div", { class: "track" }, bar), number) };
  });
  const verdict = h("p", { class: "verdict", role: "status" });
  const lines = Array.from({ length: rows }, () => {
    const [text, cost] = [h("code"), h("span")];
    return { text, cost, root: h("li", null, text, cost) };
  });
  const attempt = invitation(host, data, "Raise the votes on a problem whose first chain is wrong. Then look at the hardest problem: does the vote still mend it?");

  root.append(h("section", { class: "explorer cot", "aria-label": "Explorer: what tokens buy" },
    h("header", null, groupChoice.root, h("div", { class: "knob" }, voteSlider.root), h("div", { class: "knob" }, placeSlider.root)),
    attempt ? h("p", { class: "try" }, h("b", null, "Try"), " ", attempt) : null,
    h("div", { class: "body" },
      h("figure", null,
        h("figcaption", null, h("span", null, "Accuracy against tokens a problem"), h("span", { class: "legend" }, h("span", null, h("i", { class: "key steps" }), "chains, vote"), h("span", null, h("i", { class: "key direct" }), "direct answers, vote"))),
        chart.svg, h("ol", { class: "others" }, named)),
      h("div", { class: "one" }, question, h("div", { class: "tallies" }, tally.map((one) => one.root)), verdict)),
    h("div", { class: "figures" }, Object.values(tiles).map((one) => one.root)),
    h("p", { class: "caption" }, "Its chains, in the order sampled; those that do not vote yet are faint. A ", h("mark", { class: "s" }, "slip"), " is a wrong sum, a ", h("mark", { class: "x" }, "stray"), " step adds a number that is not on the table."),
    h("ol", { class: "chains", tabindex: "0", "aria-label": "Chains of thought" }, lines.map((one) => one.root)),
    h("footer", null, "Real chains of a tiny model at temperature 1. Each point is the mean over all subsets of n samples of each problem; bands are 95% intervals over problems.")));

  /** The text of a chain, its equations marked. */
  const coloured = (text, its) => {
    const parts = [];
    let [from, k] = [0, 0];
    for (const found of text.matchAll(/\d* \+ \d+ = \d+/g)) {
      parts.push(text.slice(from, found.index), h("mark", { class: its[k] || "r" }, found[0]));
      from = found.index + found[0].length;
      k += 1;
    }
    return [...parts, text.slice(from)];
  };
  let shown = null;

  function drawChart(at, same) {
    const points = [...group.steps, ...group.direct, ...group.others];
    const [low, high] = [Math.min(...points.map((p) => p.tokens)) * 0.85, Math.max(...points.map((p) => p.tokens)) * 1.15];
    const labels = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].filter((v) => v >= low && v <= high);
    chart.frame({ x: [low, high], y: [0, 1], warp: log10, xTicks: labels, xText: String, yTicks: [0, 0.25, 0.5, 0.75, 1], yText: (v) => `${Math.round(100 * v)}%`, xName: "tokens a problem (logarithmic)" });
    for (const { name, band, line, dot } of series) {
      const curve = group[name];
      const spots = (key) => curve.map((p) => [chart.x(p.tokens), chart.y(p[key])]);
      line.setAttribute("d", trace(spots("accuracy")));
      band.setAttribute("d", `${trace([...spots("low"), ...spots("high").reverse()])}Z`);
      const here = name === "steps" ? at : { tokens: Math.min(at.tokens, curve[curve.length - 1].tokens), accuracy: same };
      dot.setAttribute("cx", chart.x(Math.max(here.tokens, curve[0].tokens)).toFixed(1));
      dot.setAttribute("cy", chart.y(here.accuracy).toFixed(1));
    }
    marks.forEach(([box, letter], k) => {
      const other = group.others[k];
      const seen = other ? "visible" : "hidden";
      box.setAttribute("visibility", seen);
      letter.setAttribute("visibility", seen);
      say(named[k], other ? `${String.fromCharCode(97 + k)}  ${other.name}: ${percent(other.accuracy)}, ${count(other.tokens)} tokens` : "");
      if (!other) return;
      const [x, y] = [chart.x(other.tokens), chart.y(other.accuracy)];
      for (const [key, v] of Object.entries({ x: x - 4.5, y: y - 4.5 })) box.setAttribute(key, v.toFixed(1));
      for (const [key, v] of Object.entries({ x: x + 8, y: y + 4 })) letter.setAttribute(key, v.toFixed(1));
      say(letter, String.fromCharCode(97 + k));
    });
    say(title, `${group.name}, a vote of ${at.n} chains: ${percent(at.accuracy)} right with ${count(at.tokens)} tokens; direct answers with as many tokens: ${percent(same)}.`);
  }

  function update() {
    const began = performance.now();
    const at = group.steps[Math.min(votes, group.steps.length) - 1];
    const same = accuracyAt(group.direct, at.tokens);
    const trace1 = group.traces[Math.min(place, group.traces.length - 1)];
    const n = Math.min(votes, trace1.chains.length);
    const voting = trace1.chains.slice(0, n);
    const winner = majority(voting.map((one) => one[3]));
    const chance = voteAtN(trace1.chains.map((one) => one[3]), trace1.value, n);
    const cost = voting.reduce((sum, one) => sum + one[2], 0);
    drawChart(at, same);
    say(question, trace1.question);
    const counts = new Map();
    for (const [, , , answer] of voting) counts.set(answer, (counts.get(answer) || 0) + 1);
    const ranked = [...counts].sort((a, b) => b[1] - a[1]);
    tally.forEach((row, k) => {
      const rest = k === tally.length - 1 && ranked.length > tally.length;
      const [answer, its] = rest ? ["others", ranked.slice(k).reduce((sum, one) => sum + one[1], 0)] : ranked[k] || ["", 0];
      say(row.name, answer === null ? "none" : `${answer}${answer === trace1.value ? " ✓" : ""}`);
      say(row.number, its ? String(its) : "");
      row.bar.style.width = `${(100 * its) / n}%`;
      row.root.className = `tally${answer === trace1.value ? " hit" : ""}`;
    });
    const tied = winner !== null && ranked.filter(([, its]) => its === counts.get(winner)).length > 1;
    say(verdict, `${winner === trace1.value ? "Right" : "Wrong"}${tied ? ", by a tie" : ""}. Over all ways to draw ${n} of these ${trace1.chains.length} chains, the vote is right in ${percent(chance)}.`);
    tiles.vote.value(winner === null ? "nothing" : String(winner));
    tiles.vote.note(winner === trace1.value ? "right" : `wrong; it is ${trace1.value}`);
    tiles.tokens.value(count(cost));
    tiles.tokens.note(`direct: ${count(trace1.direct_tokens)} an answer`);
    tiles.all.value(percent(at.accuracy));
    tiles.all.note(`${percent(at.low)} to ${percent(at.high)}`);
    tiles.direct.value(percent(same));
    tiles.direct.note(`${group.problems} problems`);
    if (shown !== trace1) {
      shown = trace1;
      lines.forEach((line, k) => {
        const chain = trace1.chains[k];
        const [text, cost] = [h("code", null, chain ? coloured(chain[0], chain[1]) : []), h("span")]; // new nodes have not moved
        const row = h("li", null, text, cost);
        line.root.replaceWith(row);
        Object.assign(line, { text, cost, root: row });
        say(line.cost, chain ? `${chain[3] === trace1.value ? "✓" : "✗"} ${chain[2]} tok.` : "");
      });
    }
    lines.forEach((line, k) => { line.root.className = k < n ? "votes" : ""; });
    host.dispatchEvent(new CustomEvent("alignlab-update", { detail: { milliseconds: performance.now() - began, votes: n, winner, chance, cost, at, same } }));
  }

  whenWide(chart.svg, update);
}

define("alignlab-cot_cost", cotCost, { majority, choose, voteAtN, accuracyAt });
