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

  // On a phone the names in a legend stand below each other: the plot keeps its height.
  const NARROW = 480, LEGEND_LINE = 20;
  function height({ data, layout }, target) {
    const named = data.filter((trace) => trace.name && trace.showlegend !== false);
    return layout.height + (target.clientWidth < NARROW ? LEGEND_LINE * Math.max(named.length - 1, 0) : 0);
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
    plot.layout.height = height(plot, target);
    target.style.height = `${plot.layout.height}px`;
    figures.set(target.id, { target, plot, choices });
    Plotly.newPlot(target, plot.data, themed(plot.layout), config(target.id));
    choose(target.id);
  }

  // plotly.js stands in the page as gzip in base64, less than half its size.
  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const script = document.createElement("script");
    script.textContent = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(script);
  }
  const unpacked = unpack(document.getElementById("plotly"));

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
  window.addEventListener("load", () => unpacked.then(drawNext));
  window.addEventListener("beforeprint", () => window.Plotly && waiting.splice(0).forEach(draw));

  // Put what the selected choice changes into its figure; before that is drawn there is nothing to do: drawing does it.
  // Of several selectors the last one's options stand next to each other among the choices.
  function choose(id) {
    const figure = figures.get(id);
    const selects = [...document.querySelectorAll(`select[data-figure="${id}"]`)];
    if (!figure || !selects.length) return;
    const choice = figure.choices[selects.reduce((place, each) => place * each.length + each.selectedIndex, 0)];
    figure.plot.data.forEach((trace, index) => Object.assign(trace, choice.traces[index]));
    Object.assign(figure.plot.layout, choice.layout);
    Plotly.react(figure.target, figure.plot.data, themed(figure.plot.layout), config(figure.target.id));
  }

  // Folded parts are printed too.
  window.addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((part) => {
    part.open = true;
    part.dataset.opened = "for print";
  }));
  window.addEventListener("afterprint", () => document.querySelectorAll("details[data-opened]").forEach((part) => {
    part.open = false;
    delete part.dataset.opened;
  }));

  for (const select of document.querySelectorAll("select[data-figure]")) {
    select.addEventListener("change", () => choose(select.dataset.figure));
  }

  // A column's title sorts by it: ascending, descending, as it was. Words above a long table keep the rows that hold all of them.
  const LONG = 10;
  const collator = new Intl.Collator("en", { numeric: true });

  function key(row, place, numeric) {
    const text = row.cells[place].textContent.trim();
    const value = Number.parseFloat(text.replaceAll(",", "").replace("−", "-"));
    return numeric ? (Number.isNaN(value) ? -Infinity : value) : text;
  }

  function sort(table, header) {
    const place = header.cellIndex;
    const numeric = header.classList.contains("number");
    const next = { none: "ascending", ascending: "descending", descending: "none" }[header.getAttribute("aria-sort") ?? "none"];
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    if (next !== "none") header.setAttribute("aria-sort", next);
    const rows = [...table.tBodies[0].rows];
    const compare = (a, b) => (numeric ? a - b : collator.compare(a, b)) * (next === "descending" ? -1 : 1);
    rows.sort((a, b) => (next === "none" ? 0 : compare(key(a, place, numeric), key(b, place, numeric))) || a.dataset.place - b.dataset.place);
    table.tBodies[0].append(...rows);
  }

  function filter(table, words, told) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) row.hidden = !wanted.every((word) => row.textContent.toLowerCase().includes(word));
    told.textContent = wanted.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
    if (table.tBodies[0].rows.length > 1) {
      for (const header of table.tHead.rows[0].cells) {
        const button = document.createElement("button");
        button.type = "button";
        button.append(...header.childNodes);
        header.append(button);
        button.addEventListener("click", () => sort(table, header));
      }
    }
    if (table.tBodies[0].rows.length > LONG) {
      const label = document.createElement("label");
      const input = document.createElement("input");
      const told = document.createElement("span");
      label.className = "filter";
      input.type = "search";
      told.setAttribute("role", "status");
      label.append("Only rows with", input, told);
      input.addEventListener("input", () => filter(table, input.value, told));
      table.closest(".scroll").before(label);
    }
  }

  dark.addEventListener("change", () => {
    for (const { target, plot } of figures.values()) {
      Plotly.react(target, plot.data, themed(plot.layout), config(target.id));
    }
  });
})();
