// Renders the page's mathematics with the vendored KaTeX. Each .math element holds TeX between \( \) or \[ \].
(() => {
  "use strict";
  const render = (element) => {
    const holder = [...element.childNodes].find((node) => node.nodeType === Node.TEXT_NODE && /\\[([]/.test(node.data));
    if (!holder) return;
    const match = /^\s*\\([([])([\s\S]*)\\[)\]]\s*$/.exec(holder.data);
    if (!match) return;
    const box = document.createElement("span");
    katex.render(match[2], box, {
      displayMode: match[1] === "[",
      macros: { ...window.alignlabMacros },
      throwOnError: false,
      trust: false,
      strict: (code) => (code === "unicodeTextInMathMode" ? "ignore" : "warn"),
    });
    if (match[1] === "[") {
      box.className = "al-display";
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "Equation");
    }
    holder.replaceWith(box);
  };
  const all = () => document.querySelectorAll(".math").forEach(render);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
})();
