// The filter of the outline map. Without it the whole map is shown.
(() => {
  "use strict";
  const start = () => {
    const map = document.querySelector(".al-map");
    const form = map && map.querySelector(".al-map-filter");
    if (!form) return;
    const rows = [...map.querySelectorAll("tbody tr")];
    const texts = rows.map((row) => `${row.closest("table").caption.textContent} ${row.textContent}`.toLowerCase());
    const show = () => {
      const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((row, index) => {
        row.hidden = !words.every((word) => texts[index].includes(word))
          || (form.elements.written.checked && row.dataset.written === "0")
          || (form.elements.lab.checked && row.dataset.lab === "0");
        count += row.hidden ? 0 : 1;
      });
      map.querySelectorAll(".al-map-part").forEach((part) => { part.hidden = !part.querySelector("tbody tr:not([hidden])"); });
      form.querySelector("output").textContent = count === rows.length ? "" : `${count} of ${rows.length} shown`;
    };
    form.hidden = false;
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    show();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
