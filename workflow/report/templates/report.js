"use strict";
// Draws every figure of the page in the page's colours, follows the colour scheme, and serves the selectors.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const figures = new Map();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function theme() {
    const line = colour("--line");
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true };
    return {
      font: { color: colour("--text"), family: getComputedStyle(document.body).fontFamily, size: 13 },
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--text") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--accent") },
      axis,
    };
  }

  function themed(layout) {
    const { axis, ...shared } = theme();
    const titled = (given) => ({ ...given, ...axis, title: { ...given.title, font: { size: 13 }, standoff: 8 } });
    const axes = { xaxis: titled(layout.xaxis), yaxis: titled(layout.yaxis) };
    return { ...layout, ...shared, ...axes };
  }

  const config = (id) => ({
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"],
    plotlyServerURL: "", // nothing of this page is ever sent anywhere
    toImageButtonOptions: { format: "svg", filename: id },
  });

  function draw(source) {
    const { plot, choices } = JSON.parse(source.textContent);
    const target = document.getElementById(source.dataset.plot);
    figures.set(target.id, { target, plot, choices });
    Plotly.newPlot(target, plot.data, themed(plot.layout), config(target.id));
    document.querySelectorAll(`select[data-figure="${target.id}"]`).forEach(choose);
  }

  // One figure a turn, so that the page can be read and scrolled meanwhile; a print waits for none.
  const waiting = [...document.querySelectorAll("script[data-plot]")];
  function drawNext() {
    if (waiting.length) {
      draw(waiting.shift());
      setTimeout(drawNext);
    } else {
      document.documentElement.dataset.drawn = "true";
    }
  }
  window.addEventListener("load", () => setTimeout(drawNext));
  window.addEventListener("beforeprint", () => waiting.splice(0).forEach(draw));

  // Put what the selected choice changes into its figure; before that is drawn there is nothing to do: drawing does it.
  function choose(select) {
    const figure = figures.get(select.dataset.figure);
    if (!figure) return;
    const choice = figure.choices[Number(select.value)];
    figure.plot.data.forEach((trace, index) => Object.assign(trace, choice.traces[index]));
    Object.assign(figure.plot.layout, choice.layout);
    Plotly.react(figure.target, figure.plot.data, themed(figure.plot.layout), config(figure.target.id));
  }

  for (const select of document.querySelectorAll("select[data-figure]")) {
    select.addEventListener("change", () => choose(select));
  }

  dark.addEventListener("change", () => {
    for (const { target, plot } of figures.values()) {
      Plotly.react(target, plot.data, themed(plot.layout), config(target.id));
    }
  });
})();
