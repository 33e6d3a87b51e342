"use strict";
(() => {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const styles = Object.fromEntries(data.arms.map((arm) => [arm.name, arm]));
  const filters = document.getElementById("filter-form");
  const curves = document.getElementById("curve-form");
  const narrow = window.matchMedia("(max-width: 62rem)");
  const touch = window.matchMedia("(pointer: coarse)");

  // Plotly reads a little HTML in texts; names are to be shown as they are.
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const chosen = (name) => new Set(new FormData(filters).getAll(name));
  const shade = (colour, alpha) => `rgba(${[1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)).join(",")},${alpha})`;
  const digits = (value) => (value === null || value === undefined ? ""
    : value.toLocaleString("en", Number.isInteger(value) ? {} : { maximumSignificantDigits: 5 }));

  function settings() {
    const form = new FormData(curves);
    return {
      tasks: chosen("task"),
      arms: chosen("arm"),
      normalised: new FormData(filters).get("values") === "normalised",
      axis: form.get("axis"),
      line: form.get("line"),
      band: form.get("band"),
      single: form.has("single"),
    };
  }

  function scaled(task, now) {
    if (!now.normalised || task.reference === null) return (value) => value;
    const [low, high] = task.reference;
    return (value) => (100 * (value - low)) / (high - low);
  }

  function bandTrace(x, low, high, style, meta) {
    return {
      x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()], meta, type: "scatter", mode: "lines", fill: "toself",
      fillcolor: shade(style.colour, 0.18), line: { width: 0 }, hoverinfo: "skip", showlegend: false,
    };
  }

  function runTraces(task, group, now, map) {
    return group.runs.filter((run) => run[now.axis] !== null).map((run) => ({
      x: run[now.axis], y: run.returns.map(map), type: "scatter", mode: "lines", showlegend: false,
      meta: { kind: "run", task: task.name, arm: group.arm, seed: run.seed, finished: run.finished },
      line: { color: shade(styles[group.arm].colour, 0.55), width: 1, dash: run.finished ? "solid" : "dot" },
      hovertemplate: `${plain(group.arm)}, seed ${run.seed === null ? "unknown" : run.seed}${run.finished ? "" : ", not finished"}: %{y:.5~g}<extra></extra>`,
    }));
  }

  function curveTraces(task, now) {
    const map = scaled(task, now);
    const bands = [], runs = [], lines = [];
    for (const group of task.groups.filter((group) => now.arms.has(group.arm))) {
      const style = styles[group.arm], over = group[now.axis];
      if (now.single) runs.push(...runTraces(task, group, now, map));
      if (over === null) continue;
      const meta = { task: task.name, arm: group.arm };
      const ends = now.band === "none" ? null : now.band === "range" ? over.range : over[`${now.line}_interval`];
      if (ends !== null) bands.push(bandTrace(over.x, ends[0].map(map), ends[1].map(map), style, { kind: "band", ...meta }));
      const name = `${plain(group.arm)} (${over.n_runs} run${over.n_runs === 1 ? "" : "s"}${group.unfinished ? ", not finished" : ""})`;
      lines.push({
        x: over.x, y: over[now.line].map(map), meta: { kind: "line", ...meta }, name, type: "scatter", showlegend: false,
        mode: over.x.length < 25 ? "lines+markers" : "lines", marker: { size: 5 },
        line: { color: style.colour, width: 2.4, dash: style.dash },
        hovertemplate: `${name}: %{y:.5~g}<extra></extra>`,
      });
    }
    const traces = [...bands, ...runs, ...lines];
    if (task.behaviour !== null && traces.length) {
      const x = traces.flatMap((trace) => trace.x);
      traces.push({
        x: [x.reduce((a, b) => Math.min(a, b)), x.reduce((a, b) => Math.max(a, b))], y: [map(task.behaviour), map(task.behaviour)],
        meta: { kind: "behaviour", task: task.name }, type: "scatter", mode: "lines", showlegend: false,
        line: { color: colour("--muted"), width: 1.5, dash: "dash" }, hovertemplate: "mean return of the dataset: %{y:.5~g}<extra></extra>",
      });
    }
    return traces;
  }

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function layout(x, y) {
    const axis = { gridcolor: colour("--line"), zeroline: false, linecolor: colour("--line"), automargin: true, nticks: 6, title: { standoff: 8 } };
    return {
      margin: { l: 52, r: 12, t: 8, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { color: colour("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
      hovermode: "closest", dragmode: touch.matches ? false : "zoom",
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--muted"), font: { color: colour("--ink") } },
      xaxis: { ...axis, title: { ...axis.title, text: x }, rangemode: "tozero" },
      yaxis: { ...axis, title: { ...axis.title, text: y } },
    };
  }

  const config = { displaylogo: false, responsive: true, displayModeBar: false };

  function drawCurves(now) {
    data.tasks.forEach((task, index) => {
      const div = document.getElementById(`curve-${index}`);
      if (!now.tasks.has(task.name)) return;
      const traces = curveTraces(task, now);
      const unit = now.axis === "steps" ? task.unit : `${data.time.name} of training`;
      const value = now.normalised && task.reference !== null ? "normalised score" : "evaluation return";
      Plotly.react(div, traces, layout(unit, value), config);
      const drawn = new Set(traces.map((trace) => trace.meta.arm));
      const without = task.groups.filter((group) => now.arms.has(group.arm) && !drawn.has(group.arm)).map((group) => group.arm);
      const why = now.axis === "time" ? "wall-clock time is not known, or their runs share none" : "no evaluations to draw";
      document.getElementById(`remark-${index}`).textContent = without.length ? `Not drawn, ${why}: ${without.join(", ")}.` : "";
      div.setAttribute("aria-label", `Learning curves on ${task.name} against ${unit}: ${[...drawn].filter(Boolean).join(", ")}; the table below has the numbers`);
    });
  }

  function drawProfile(now) {
    const div = document.getElementById("profile");
    if (div === null || data.profile === null) return;
    const x = data.profile.x, shown = data.profile.arms.filter((entry) => now.arms.has(entry.arm));
    const bands = shown.map((entry) => bandTrace(x, entry.interval[0], entry.interval[1], styles[entry.arm], { kind: "band", arm: entry.arm }));
    const lines = shown.map((entry) => ({
      x, y: entry.y, meta: { kind: "line", arm: entry.arm }, type: "scatter", mode: "lines", showlegend: false, name: plain(entry.arm),
      line: { color: styles[entry.arm].colour, width: 2.4, dash: styles[entry.arm].dash },
      hovertemplate: `${plain(entry.arm)}: %{y:.0%} above %{x:.4~g}<extra></extra>`,
    }));
    const look = layout(`normalised score (${data.profile.scale})`, "share of runs that score more");
    Object.assign(look.yaxis, { range: [-0.02, 1.03], tickformat: ".0%" });
    delete look.xaxis.rangemode;
    Plotly.react(div, [...bands, ...lines], look, config);
  }

  // The numbers behind a chart, of what it shows now; made when they are looked at.
  function fillTable(details) {
    if (!details.open) return;
    const div = document.getElementById(details.dataset.curve === "profile" ? "profile" : `curve-${details.dataset.curve}`);
    const traces = div.data || [];
    const ends = Object.fromEntries(traces.filter((trace) => trace.meta.kind === "band").map((trace) => [trace.meta.arm, trace.y]));
    const table = document.createElement("table");
    table.className = "data";
    const head = table.createTHead().insertRow();
    for (const text of ["algorithm", div.layout.xaxis.title.text, div.layout.yaxis.title.text, "band from", "band to"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = text;
      head.append(cell);
    }
    const body = table.createTBody();
    const shown = ["line", "run"].flatMap((kind) => traces.filter((trace) => trace.meta.kind === kind));
    for (const trace of shown) {
      const n = trace.x.length, band = trace.meta.kind === "line" ? ends[trace.meta.arm] : undefined;
      const seed = trace.meta.kind === "run" ? `, seed ${trace.meta.seed === null ? "unknown" : trace.meta.seed}` : "";
      trace.x.forEach((x, i) => {
        const row = body.insertRow();
        const cells = [trace.meta.arm + seed, digits(x), digits(trace.y[i]), band && digits(band[2 * n - 1 - i]), band && digits(band[i])];
        for (const text of cells) row.insertCell().textContent = text || "";
      });
    }
    details.querySelector(".scroll").replaceChildren(table);
  }

  function hideAndShow(now) {
    for (const element of document.querySelectorAll("main [data-task], main [data-arm]")) {
      const { task, arm, other } = element.dataset;
      element.hidden = (task !== undefined && !now.tasks.has(task)) || [arm, other].some((name) => name !== undefined && !now.arms.has(name));
    }
    const groups = data.tasks.filter((task) => now.tasks.has(task.name)).flatMap((task) => task.groups).filter((group) => now.arms.has(group.arm));
    for (const element of document.querySelectorAll(".empty")) element.hidden = groups.length > 0;
    document.getElementById("shown").textContent =
      `${now.tasks.size} of ${data.tasks.length} tasks, ${now.arms.size} of ${data.arms.length} algorithms`;
    document.body.classList.toggle("normalised", now.normalised);
    document.getElementById("clock-note")?.toggleAttribute("hidden", now.axis === "steps");
  }

  function update() {
    const now = settings();
    hideAndShow(now);
    drawCurves(now);
    drawProfile(now);
    document.querySelectorAll(".numbers").forEach(fillTable);
  }

  for (const form of [filters, curves]) {
    form.addEventListener("change", update);
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  for (const button of filters.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const field = button.closest("fieldset");
      for (const box of field.querySelectorAll("input")) box.checked = button.dataset.all !== undefined;
      update();
    });
  }
  for (const details of document.querySelectorAll(".numbers")) details.addEventListener("toggle", () => fillTable(details));
  const fold = () => { document.getElementById("filters").open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  fold();
  update();
})();
