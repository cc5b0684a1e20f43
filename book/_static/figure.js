// Draws the plotly figures of a page from the JSON inside them, in the colours of the page's theme, and again when it changes.
(() => {
  "use strict";
  const figures = [];
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--al-${name}`).trim();

  const themed = (layout) => {
    const ink = color("ink"), muted = color("muted"), faint = color("faint"), panel = color("panel");
    const next = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      "font.color": ink,
      "title.font.color": ink,
      "legend.font.color": ink,
      "legend.bgcolor": "rgba(0,0,0,0)",
      "hoverlabel.bgcolor": panel,
      "hoverlabel.bordercolor": faint,
      "hoverlabel.font.color": ink,
      "modebar.color": muted,
      "modebar.activecolor": ink,
      "modebar.bgcolor": "rgba(0,0,0,0)",
    };
    const axes = new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))]);
    for (const axis of axes) {
      Object.assign(next, {
        [`${axis}.color`]: muted,
        [`${axis}.tickfont.color`]: muted,
        [`${axis}.title.font.color`]: muted,
        [`${axis}.gridcolor`]: faint,
        [`${axis}.linecolor`]: faint,
        [`${axis}.zerolinecolor`]: faint,
      });
    }
    (layout.annotations || []).forEach((note, index) => {
      if (!note.font || !note.font.color) next[`annotations[${index}].font.color`] = ink;
    });
    return next;
  };

  const draw = (box) => {
    const source = box.querySelector('script[type="application/json"]');
    if (!source) return;
    const { data, layout } = JSON.parse(source.textContent);
    const narrow = box.clientWidth < 520;
    const plot = document.createElement("div");
    plot.className = "al-plot-canvas";
    box.append(plot);
    const full = { ...layout, autosize: true, width: undefined, height: box.clientHeight };
    if (narrow) {
      full.margin = { ...(layout.margin || {}), l: 8, r: 8 };
      full.legend = { ...(layout.legend || {}), orientation: "h", x: 0, xanchor: "left", y: -0.22, yanchor: "top" };
    }
    const config = { responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
    figures.push(plot);
    Plotly.newPlot(plot, data, full, config).then(() => Plotly.relayout(plot, themed(full)));
  };

  const start = () => {
    const boxes = [...document.querySelectorAll(".al-plot")];
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        observer.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "600px" });
    boxes.forEach((box) => observer.observe(box));
    addEventListener("beforeprint", () => boxes.filter((box) => !box.querySelector(".al-plot-canvas")).forEach((box) => {
      observer.unobserve(box);
      draw(box);
    }));
    new MutationObserver(() => figures.forEach((plot) => plot.layout && Plotly.relayout(plot, themed(plot.layout))))
      .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
