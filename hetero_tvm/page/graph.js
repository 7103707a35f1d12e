// The graph as SVG: pan, zoom, search, select.

const SVG = "http://www.w3.org/2000/svg";
const LABEL_LENGTH = 25;

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  append(made, children);
  return made;
}

function shortened(text, most) {
  return text.length <= most ? text : `…${text.slice(text.length - most + 1)}`;
}

function beginning(text, most) {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

const graphView = { zoom: null, root: null, groups: new Map(), edges: [], hidden: new Set() };

function drawGraph() {
  const fn = state.fn, drawing = fn.drawing, canvas = byId("svg");
  const nodes = drawing.nodes.map((node) => ({ ...node, op: node.border ? null : operatorsByName(fn).get(node.name) }));
  const most = Math.max(1e-9, ...fn.operators.map(weight));
  canvas.replaceChildren();
  const root = svg("g", {});
  const lines = svg("g", { class: "edges" }), boxes = svg("g", { class: "nodes" });
  graphView.groups = new Map();
  graphView.edges = [];
  for (const [start, end, points] of drawing.edges) {
    const from = nodes[start].op, to = nodes[end].op;
    const crosses = from && to && from.device !== to.device;
    const path = svg("path", { class: crosses ? "edge border" : "edge", d: curve(points) });
    graphView.edges.push({ path, from: from && from.name, to: to && to.name });
    lines.append(path);
  }
  for (const node of nodes) boxes.append(node.op ? drawNode(node, drawing.box, most) : drawPill(node));
  root.append(lines, boxes);
  canvas.append(root);
  graphView.root = root;
  graphView.zoom = d3.zoom().scaleExtent([0.03, 4]).on("zoom", (event) => {
    root.setAttribute("transform", event.transform);
    canvas.classList.toggle("far", event.transform.k < 0.35);
  });
  d3.select(canvas).call(graphView.zoom).on("dblclick.zoom", null);
  fitGraph(false);
  applySearch();
  markSelected(state.selected, false);
}

/** From point to point, leaving and reaching each one straight down. */
function curve(points) {
  let path = `M${points[0]}`;
  for (let at = 1; at < points.length; at += 1) {
    const [x0, y0] = points[at - 1], [x1, y1] = points[at], middle = (y0 + y1) / 2;
    path += x0 === x1 ? `V${y1}` : `C${x0} ${middle} ${x1} ${middle} ${x1} ${y1}`;
  }
  return path;
}

function drawPill(node) {
  return svg("g", { class: "pill", transform: `translate(${node.at[0] - 55},${node.at[1] - 22})` },
    svg("rect", { width: 110, height: 44, rx: 22 }),
    svg("text", { x: 55, y: 26, "text-anchor": "middle" }, node.name));
}

function drawNode(node, [width, height], most) {
  const op = node.op, view = !weight(op) && !op.macs;
  const group = svg("g", {
    class: `node ${placeClass(op.device)}${view ? " free" : ""}`,
    transform: `translate(${node.at[0] - width / 2},${node.at[1] - height / 2})`,
    tabindex: "0",
    role: "button",
    "aria-label": `${kindOf(op)} ${op.node} on ${op.device}`,
  });
  group.append(svg("title", {}, `${kindOf(op)} · ${op.node}\n${op.device.toUpperCase()} · ${time(weight(op))}`));
  group.append(svg("rect", { class: "shape", width: width, height: height, rx: 8 }));
  if (op.split) {
    const npu = Math.max(10, Math.min(width - 10, width * op.split.npu_share));
    group.append(svg("path", { class: "part npu", d: `M8 0H${npu}V${height}H8Q0 ${height} 0 ${height - 8}V8Q0 0 8 0Z` }));
    group.append(svg("path", { class: "part gpu", d: `M${npu} 0H${width - 8}Q${width} 0 ${width} 8V${height - 8}Q${width} ${height} ${width - 8} ${height}H${npu}Z` }));
  }
  group.append(svg("text", { class: "kind", x: 10, y: 18 }, beginning(kindOf(op), view ? 22 : 14)));
  group.append(svg("text", { class: "us", x: width - 10, y: 18, "text-anchor": "end" }, view ? "" : time(weight(op))));
  group.append(svg("text", { class: "name", x: 10, y: 33 }, shortNode(op, LABEL_LENGTH)));
  const heat = weight(op) / most;
  if (heat > 0.004) group.append(svg("rect", { class: "heat", x: 8, y: height - 4.5, width: Math.max(2, (width - 16) * heat), height: 2.5, rx: 1.2 }));
  group.addEventListener("click", () => select(op.name, false));
  group.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(op.name, false); }
  });
  graphView.groups.set(op.name, { group, node });
  return group;
}

function canvasSize() {
  const box = byId("canvas").getBoundingClientRect();
  return [box.width || 800, box.height || 600];
}

/** All of it where it stays readable, else its beginning at a readable size. */
function fitGraph(all) {
  const [width, height] = state.fn.drawing.size, [w, h] = canvasSize();
  let scale = Math.min(w / (width + 40), h / (height + 40), 1.2);
  if (!all) scale = Math.max(scale, Math.min(0.75, Math.max(0.4, w / (width + 40))));
  const x = (w - width * scale) / 2, y = height * scale < h ? (h - height * scale) / 2 : 20;
  d3.select(byId("svg")).call(graphView.zoom.transform, d3.zoomIdentity.translate(x, y).scale(scale));
}

function centre(name) {
  const found = graphView.groups.get(name);
  if (!found) return;
  const [w, h] = canvasSize(), scale = Math.max(0.8, d3.zoomTransform(byId("svg")).k);
  const narrow = window.matchMedia("(max-width: 860px)").matches; // details lie over the lower part
  if (narrow) requestAnimationFrame(() => byId("canvas").scrollIntoView({ block: "start" }));
  const y = h * (narrow ? 0.22 : 0.5);
  const to = d3.zoomIdentity.translate(w / 2 - found.node.at[0] * scale, y - found.node.at[1] * scale).scale(scale);
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  d3.select(byId("svg")).transition().duration(calm ? 0 : 350).call(graphView.zoom.transform, to);
}

function markSelected(name, show) {
  for (const [one, { group }] of graphView.groups) group.classList.toggle("selected", one === name);
  for (const edge of graphView.edges) {
    edge.path.classList.toggle("near", name !== null && (edge.from === name || edge.to === name));
  }
  if (name !== null && show) centre(name);
}

function matches(op, words) {
  const text = `${op.op} ${op.node} ${op.name} ${op.device}${op.split ? " split" : ""} ${op.region === null ? "" : `region_${op.region}`} ${op.calls.map((at) => state.fn.calls[at].symbol).join(" ")}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

function applySearch() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0, first = null;
  for (const [name, { group, node }] of graphView.groups) {
    const hit = matches(node.op, words) && !graphView.hidden.has(node.op.device);
    group.classList.toggle("dim", !hit);
    if (hit) { found += 1; first = first || name; }
  }
  byId("found").textContent = words.length ? `${found} of ${graphView.groups.size}` : "";
  return first;
}

function nextFound() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = state.fn.operators.filter((op) => matches(op, words) && !graphView.hidden.has(op.device));
  if (!words.length || !hits.length) return;
  const at = hits.findIndex((op) => op.name === state.selected);
  select(hits[(at + 1) % hits.length].name, true);
}

function drawLegend() {
  const counts = {};
  for (const op of state.fn.operators) counts[op.device] = (counts[op.device] || 0) + 1;
  fill(byId("legend"), PLACES.filter((place) => counts[place]).map((place) => {
    const button = el("button", { type: "button", class: `chip ${placeClass(place)}`, "aria-pressed": "true", title: "Show or dim" },
      `${place.toUpperCase().replace("+", " + ")} ${counts[place]}`);
    button.addEventListener("click", () => {
      if (!graphView.hidden.delete(place)) graphView.hidden.add(place);
      button.setAttribute("aria-pressed", String(!graphView.hidden.has(place)));
      applySearch();
    });
    return button;
  }), el("span", { class: "key" }, el("span", { class: "dash" }), "from one device to another"));
}

function startGraph() {
  byId("zoom-in").addEventListener("click", () => d3.select(byId("svg")).call(graphView.zoom.scaleBy, 1.5));
  byId("zoom-out").addEventListener("click", () => d3.select(byId("svg")).call(graphView.zoom.scaleBy, 1 / 1.5));
  byId("zoom-fit").addEventListener("click", () => fitGraph(true));
  byId("search").addEventListener("input", applySearch);
  byId("search").addEventListener("keydown", (event) => { if (event.key === "Enter") nextFound(); });
  onSelect(markSelected);
}
