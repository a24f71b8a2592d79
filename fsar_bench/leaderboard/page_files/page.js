"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const number = (digits) => (value) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const yesNo = (value) => (value ? "yes" : "no");
const million = (value) => number(2)(value / 1e6);

// flagged figures of papers are sorted apart from the others, and say why
const paper = (published) => (published ? published.accuracy - (published.flags ? 1000 : 0) : null);
const figure = ({ accuracy, flags }) => number(1)(accuracy) + (flags ? ` (${flags})` : "");

// title, value to sort by, text to show (of the value, and of the row), whether the column is text, whether it sorts in descending order first
const COLUMNS = [
  ["rank", (r) => r.place, (_, r) => r.rank_text],
  ["may be best", (r) => yesNo(r.may_be_best), String, true, true],
  ["method", (r) => r.label, String, true],
  ["accuracy %", (r) => r.accuracy, number(2), false, true],
  ["± all", (r) => r.half_width_all, (_, r) => r.all_text],
  ["± clips", (r) => r.half_width_clips, (_, r) => r.clips_text],
  ["± classes", (r) => r.half_width_classes, number(2)],
  ["± episodes", (r) => r.half_width_episodes, number(2)],
  ["± seeds", (r) => r.half_width_seeds, number(2)],
  ["pair %", (r) => r.pair_accuracy, number(1), false, true],
  ["± pair", (r) => r.half_width_pairs, number(1)],
  ...["shuffled", "reversed", "middle", "differences"].map((kind) => [kind, (r) => r[`change_${kind}`], (_, r) => r.controls_text[kind]]),
  ["paper %", (r) => paper(r.published), (_, r) => figure(r.published), false, true],
  ["backbone", (r) => r.backbone, String, true],
  ["pre-training", (r) => r.pretraining, String, true],
  ["trained on", (r) => r.trained_on, (value) => value ?? "–", true],
  ["checkpoint", (r) => r.checkpoints.join(", ") || null, (value) => value ?? "–", true],
  ["class names", (r) => yesNo(r.class_names), String, true],
  ["transductive", (r) => yesNo(r.transductive), String, true],
  ["tuned", (r) => r.tuned_text, String, true],
  ["trained M", (r) => r.trainable_parameters, million],
  ["total M", (r) => r.parameters, million],
  ["train s", (r) => r.train_seconds, number(1)],
  ["videos/s", (r) => r.encode_videos_per_second, number(0), false, true],
  ["episodes/s", (r) => r.score_episodes_per_second, number(0), false, true],
  ["memory GB", (r) => (r.memory_mb === null ? null : r.memory_mb / 1000), number(1)],
  ["seeds", (r) => r.seeds, String],
  ["coverage %", (r) => 100 * r.coverage, number(2)],
];
const inverse = (value) => (value ? 1000 / value : null);
const COSTS = [
  ["milliseconds to score an episode", (r) => inverse(r.score_episodes_per_second)],
  ["milliseconds to encode a video", (r) => inverse(r.encode_videos_per_second)],
  ["seconds of training", (r) => r.train_seconds],
  ["trained parameters (millions)", (r) => r.trainable_parameters / 1e6],
  ["all parameters (millions)", (r) => r.parameters / 1e6],
  ["memory (GB)", (r) => (r.memory_mb === null ? null : r.memory_mb / 1000)],
];
const state = { board: 0, sort: 0, down: false };

const board = () => DATA.boards[state.board];

function visible() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const names = $("names").value;
  return board().rows
    .map((row, place) => ({ ...row, place }))
    .filter((r) => !names || yesNo(r.class_names) === names)
    .filter((r) => !$("hide-controls").checked || !r.control)
    .filter((r) => {
      const text = `${r.label} ${r.method} ${r.backbone} ${r.pretraining}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
}

function element(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function fill(select, names, chosen = 0) {
  select.replaceChildren(...names.map((name, i) => {
    const option = element("option", name);
    option.value = i;
    return option;
  }));
  if (names.length) select.value = String(Math.min(chosen, names.length - 1));
}

function drawTable(rows) {
  const shown = COLUMNS.map((column, index) => [column, index])
    .filter(([[title, value]]) => title === "method" || board().rows.some((r) => value(r) !== null));
  const head = element("tr");
  for (const [[title, , , isText], index] of shown) {
    const cell = element("th", undefined, isText ? "text" : "");
    cell.scope = "col";
    if (state.sort === index) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    const button = element("button", title === "± clips" ? board().clips_title : title);
    button.type = "button";
    button.dataset.column = index;
    button.addEventListener("click", () => {
      state.down = state.sort === index ? !state.down : Boolean(COLUMNS[index][4]);
      state.sort = index;
      draw(["table"]);
      document.querySelector(`#table button[data-column="${index}"]`).focus();
    });
    cell.append(button);
    head.append(cell);
  }
  $("table").tHead.replaceChildren(head);
  const value = COLUMNS[state.sort][1];
  const sorted = [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.place - b.place;
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return (state.down ? -order : order) || a.place - b.place;
  });
  $("table").tBodies[0].replaceChildren(...sorted.map((r) => {
    const line = element("tr", undefined, [r.is_first ? "best" : "", r.control ? "control" : ""].join(" ").trim());
    for (const [[title, get, show, isText]] of shown) {
      const content = get(r);
      const cell = element("td", content === null ? "–" : show(content, r), isText ? "text" : "");
      if (title === "accuracy %") cell.classList.add("accuracy");
      if (title === "paper %" && r.published) cell.title = r.published.source;
      line.append(cell);
    }
    return line;
  }));
  $("count").textContent = `${rows.length} of ${board().rows.length} rows`;
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["paper", "ink", "soft", "line", "accent", "warm"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function layout(extra) {
  const t = theme();
  const axis = { gridcolor: t.line, zerolinecolor: t.line, automargin: true };
  const { xaxis = {}, yaxis = {}, ...rest } = extra;
  return {
    paper_bgcolor: t.paper, plot_bgcolor: t.paper, font: { color: t.ink, size: narrow() ? 10 : 13 }, margin: { l: 10, r: 15, t: 10, b: 45 },
    showlegend: false, hoverlabel: { align: "left" }, xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const CONFIG = { displayModeBar: false, responsive: true };
const narrow = () => window.innerWidth < 640;
const short = (text, most = narrow() ? 14 : 40) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const escapeHtml = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const label = (r) => escapeHtml(short(r.label));

function plot(id, traces, extra, height) {
  $(id).style.height = `${height}px`;
  Plotly.react(id, traces, layout({ height, ...extra }), CONFIG);
}

function drawIntervals(rows) {
  const t = theme();
  const widest = rows.map((r) => [r.low_all ?? r.low_clips ?? r.accuracy, r.high_all ?? r.high_clips ?? r.accuracy]);
  const overEpisodes = rows.map((r) => [r.accuracy - (r.half_width_episodes ?? 0), r.accuracy + (r.half_width_episodes ?? 0)]);
  const bars = (ends, thickness, width) => ({
    type: "scatter", mode: "markers", x: rows.map((r) => r.accuracy), y: rows.map((_, i) => i),
    error_x: {
      type: "data", symmetric: false, thickness, width, color: t.accent,
      array: rows.map((r, i) => ends[i][1] - r.accuracy), arrayminus: rows.map((r, i) => r.accuracy - ends[i][0]),
    },
    marker: { color: t.accent, size: 7 },
    text: rows.map((r) => `${escapeHtml(r.label)}<br>${r.accuracy.toFixed(2)} %<br>rank ${r.rank_text}<br>± ${r.all_text} all<br>± ${r.clips_text} clips<br>± ${number(2)(r.half_width_episodes)} episodes`),
    hovertemplate: "%{text}<extra></extra>",
  });
  plot("intervals", [bars(widest, 1.5, 5), bars(overEpisodes, 6, 0)], {
    xaxis: { title: { text: "accuracy %" } },
    yaxis: { autorange: "reversed", tickvals: rows.map((_, i) => i), ticktext: rows.map(label), zeroline: false },
    shapes: [{ type: "line", x0: board().chance, x1: board().chance, yref: "paper", y0: 0, y1: 1, line: { dash: "dot", color: t.soft } }],
  }, 90 + 26 * rows.length);
}

function drawPareto(rows) {
  const t = theme();
  const [title, cost] = COSTS[Number($("cost").value) || 0];
  const known = rows.map((r) => ({ r, x: cost(r) })).filter((p) => p.x !== null && p.x > 0);
  const front = [];
  for (const p of [...known].sort((a, b) => a.x - b.x || b.r.accuracy - a.r.accuracy)) {
    if (!front.length || p.r.accuracy > front[front.length - 1].r.accuracy) front.push(p);
  }
  const on = new Set(front);
  plot("pareto", [
    { type: "scatter", mode: "lines", x: front.map((p) => p.x), y: front.map((p) => p.r.accuracy), line: { color: t.warm, shape: "hv", width: 2 }, hoverinfo: "skip" },
    {
      type: "scatter", mode: "markers+text", x: known.map((p) => p.x), y: known.map((p) => p.r.accuracy),
      text: known.map((p) => (on.has(p) ? label(p.r) : "")), textposition: "top center", cliponaxis: false,
      customdata: known.map((p) => escapeHtml(p.r.label)), marker: { size: 9, color: known.map((p) => (on.has(p) ? t.warm : t.accent)) },
      hovertemplate: "%{customdata}<br>%{y:.2f} %<br>%{x:.3g}<extra></extra>",
    },
  ], { xaxis: { type: "log", title: { text: title } }, yaxis: { title: { text: "accuracy %" } } }, 460);
}

function drawMatrix(rows) {
  const t = theme();
  const z = rows.map((a) => rows.map((b) => a.accuracy - b.accuracy));
  const most = z.flat().reduce((top, value) => Math.max(top, Math.abs(value)), 1);
  const p = (a, b) => board().p[a.place][b.place];
  const dots = rows.flatMap((a, i) => rows.map((b, j) => [i, j, p(a, b)])).filter(([i, j, value]) => i !== j && value < 0.05);
  const places = rows.map((_, i) => i);
  plot("matrix", [
    {
      type: "heatmap", z, x: places, y: places, zmid: 0, zmin: -Math.min(most, 15), zmax: Math.min(most, 15), colorscale: "RdBu", reversescale: true,
      text: rows.map((a) => rows.map((b) => `${escapeHtml(a.label)} − ${escapeHtml(b.label)}<br>${(a.accuracy - b.accuracy).toFixed(2)} points, p = ${p(a, b).toPrecision(3)}`)),
      hovertemplate: "%{text}<extra></extra>", colorbar: { title: { text: "points" }, thickness: 12 },
    },
    { type: "scatter", mode: "markers", x: dots.map((d) => d[1]), y: dots.map((d) => d[0]), marker: { size: 4, color: "#222" }, hoverinfo: "skip" },
  ], {
    xaxis: { tickvals: places, ticktext: rows.map(label), tickangle: -60, showgrid: false, zeroline: false, constrain: "domain" },
    yaxis: { tickvals: places, ticktext: rows.map(label), autorange: "reversed", showgrid: false, zeroline: false },
  }, 240 + 22 * rows.length);
}

function drawClasses(rows) {
  const names = board().classes;
  const mean = names.map((_, c) => {
    const known = rows.map((r) => r.classwise[c]).filter((v) => v !== null);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : -1;
  });
  const order = names.map((_, c) => c).sort((a, b) => mean[b] - mean[a] || a - b);
  plot("classes", [{
    type: "heatmap", z: order.map((c) => rows.map((r) => r.classwise[c])), x: rows.map((_, i) => i), y: order.map((_, i) => i),
    colorscale: "Viridis", zmin: 0, zmax: 100, colorbar: { title: { text: "%" }, thickness: 12 },
    text: order.map((c) => rows.map((r) => `${escapeHtml(names[c])}<br>${escapeHtml(r.label)}<br>${number(1)(r.classwise[c])} %`)),
    hovertemplate: "%{text}<extra></extra>",
  }], {
    xaxis: { tickvals: rows.map((_, i) => i), ticktext: rows.map(label), tickangle: -60, showgrid: false, zeroline: false },
    yaxis: { tickvals: order.map((_, i) => i), ticktext: order.map((c) => escapeHtml(short(names[c]))), autorange: "reversed", showgrid: false, zeroline: false },
  }, 240 + 20 * names.length);
}

function drawConfusion() {
  const names = board().classes;
  const row = board().rows[Number($("method").value) || 0];
  if (!row.confusion) return Plotly.purge("confusion");
  const z = row.confusion.map((line) => {
    const total = line.reduce((a, b) => a + b, 0);
    return line.map((count) => (total ? (100 * count) / total : null));
  });
  const places = names.map((_, i) => i);
  const text = z.map((line, a) => line.map((v, b) => `${escapeHtml(names[a])}<br>predicted as ${escapeHtml(names[b])}<br>${number(1)(v)} % (${row.confusion[a][b]} queries)`));
  const off = z.map((line, a) => line.map((v, b) => (a === b ? null : v)));
  plot("confusion", [{
    type: "heatmap", z: off, x: places, y: places, text, hovertemplate: "%{text}<extra></extra>", colorscale: "Cividis", zmin: 0,
    colorbar: { title: { text: "%" }, thickness: 12 }, hoverongaps: false,
  }], {
    xaxis: { tickvals: places, ticktext: names.map((n) => escapeHtml(short(n, 24))), tickangle: -60, showgrid: false, zeroline: false, title: { text: "predicted class" } },
    yaxis: { tickvals: places, ticktext: names.map((n) => escapeHtml(short(n))), autorange: "reversed", showgrid: false, zeroline: false },
  }, 260 + 20 * names.length);
}

function drawPublished() {
  const rows = board().published;
  $("published").hidden = !rows.length;
  const flags = rows.some((row) => row.flags) ? [["flags", true]] : [];
  const columns = [["method", true], ["accuracy", false], ...flags, ["backbone", true], ["pretraining", true], ["source", true]];
  const head = element("tr");
  head.append(...columns.map(([name, isText]) => element("th", name, isText ? "text" : "")));
  $("published-table").tHead.replaceChildren(head);
  $("published-table").tBodies[0].replaceChildren(...rows.map((row) => {
    const line = element("tr", undefined, row.flags ? "flagged" : "");
    line.append(...columns.map(([name, isText]) => element("td", name === "accuracy" ? row[name].toFixed(1) : row[name], isText ? "text" : "")));
    return line;
  }));
}

function draw(parts = ["table", "plots"]) {
  const rows = visible();
  drawTable(rows);
  if (!parts.includes("plots")) return;
  for (const part of [drawIntervals, drawPareto, drawMatrix, drawClasses]) part(rows);
  drawConfusion();
}

function openBoard(place) {
  state.board = place;
  [state.sort, state.down] = [0, false];
  $("note").textContent = board().note;
  $("legend").textContent = board().legend;
  $("synthetic").hidden = !board().synthetic;
  fill($("method"), board().rows.filter((r) => r.confusion).map((r) => r.label)); // those of the first rows
  drawPublished();
  draw();
}

fill($("board"), DATA.boards.map((b) => b.title));
fill($("cost"), COSTS.map(([title]) => title));
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("board").addEventListener("change", () => openBoard(Number($("board").value)));
$("filter").addEventListener("input", () => draw());
for (const id of ["names", "hide-controls"]) $(id).addEventListener("change", () => draw());
$("cost").addEventListener("change", () => drawPareto(visible()));
$("method").addEventListener("change", drawConfusion);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
$("version").textContent = `fsar-bench ${DATA.version}`;
if (DATA.boards.length) openBoard(0);
