// One run as lanes: what the plan is predicted to do, and below it, to the same scale, what was
// measured. Both share one zoom.

const LANES = [["cpu", "CPU"], ["gpu", "GPU"], ["npu", "NPU"], ["copies", "Copies"], ["waits", "Waits"]];
const LANE_HEIGHT = 30, LANE_LEFT = 58, AXIS_HEIGHT = 22;
const lanesView = { panels: [], transform: null, most: 1, said: null };

/** Length of the union of a lane's entries. */
function covered(entries) {
  let sum = 0, end = 0;
  for (const [from, to] of entries) {
    if (to > end) { sum += to - Math.max(from, end); end = to; }
  }
  return sum;
}

/** How long GPU and NPU were at work at once. */
function overlapOf(lanes) {
  const both = covered([...lanes.gpu, ...lanes.npu.filter(isWork)].sort((a, b) => a[0] - b[0]));
  return Math.max(0, covered(lanes.gpu) + covered(lanes.npu.filter(isWork)) - both);
}

function isWork(entry) {
  return !entry[2].startsWith("submit ");
}

function drawTimeline() {
  const view = byId("view-timeline"), { predicted: foreseen, measured: recorded } = state.fn.timeline || {};
  lanesView.panels = [];
  if (!foreseen && !recorded) {
    fill(view, el("p", { class: "empty" }, "The artefact was built before builds kept a timeline; build it again."));
    return;
  }
  lanesView.transform = d3.zoomIdentity;
  lanesView.most = Math.max(1e-3, foreseen ? foreseen.us : 0, recorded ? recorded.us : 0);
  lanesView.said = el("p", { class: "quiet mono lanes-said", "aria-live": "polite" }, "Point at a block; wheel or pinch to zoom, drag to move, click to open the operator.");
  fill(view,
    el("div", { class: "lanes-keys" },
      [["npu", "NPU"], ["gpu", "GPU"], ["cpu", "CPU computes"], ["submit", "submits"], ["copies", "copies"], ["waits", "waits"]]
        .map(([name, word]) => el("span", { class: "key" }, el("span", { class: `swatch ${name}` }), word)),
      el("button", { class: "link", type: "button", onclick: () => zoomLanes(d3.zoomIdentity) }, "All of it")),
    lanesView.said,
    foreseen ? lanePanel("The plan, simulated", foreseen, "Discrete events on figures of the target; nothing was measured.") : null,
    recorded
      ? lanePanel("One run, recorded", recorded, "The run of median length. GPU kernels have the driver's times, on the host's clock.")
      : el("div", { class: "card full lanes-card" }, el("h2", {}, "Measured"), el("p", { class: "quiet" },
          "Nothing was recorded. ", el("span", { class: "mono" }, "hetero-tvm profile ARTEFACT --trace t.json"), ", then ", el("span", { class: "mono" }, "hetero-tvm report ARTEFACT --profile t.json"), ".")));
  lanesView.panels.forEach(sizeLanes);
}

function lanePanel(title, run, about) {
  const lanes = run.lanes;
  const parts = ["cpu", "gpu", "npu"].map((lane) => `${lane.toUpperCase()} ${time(covered(lanes[lane].filter(isWork)))}`);
  const words = `${time(run.us)}: ${parts.join(", ")} at work; GPU and NPU at once ${time(overlapOf(lanes))}; ${lanes.waits.length} waits, ${lanes.copies.length} copies`;
  const canvas = el("canvas", { class: "lanes", role: "img", "aria-label": `${title}. ${words}` });
  lanesView.panels.push({ canvas, run });
  return el("div", { class: "card full lanes-card" },
    el("div", { class: "lanes-head" }, el("h2", {}, title), badge(run.provenance.split(";")[0])),
    el("p", { class: "quiet" }, words), canvas, el("p", { class: "quiet" }, about));
}

function sizeLanes(panel) {
  const canvas = panel.canvas, dense = window.devicePixelRatio || 1;
  panel.width = Math.max(240, canvas.parentElement.clientWidth - 2 * parseFloat(getComputedStyle(canvas.parentElement).paddingLeft));
  panel.height = LANES.length * LANE_HEIGHT + AXIS_HEIGHT;
  canvas.width = Math.round(panel.width * dense);
  canvas.height = Math.round(panel.height * dense);
  canvas.style.height = `${panel.height}px`;
  const inner = [[LANE_LEFT, 0], [panel.width, panel.height]];
  panel.zoom = d3.zoom().scaleExtent([1, 2000]).extent(inner).translateExtent(inner)
    .on("zoom", (event) => { if (event.sourceEvent) zoomLanes(event.transform, panel); });
  d3.select(canvas).call(panel.zoom).on("dblclick.zoom", null);
  canvas.onmousemove = (event) => pointAt(panel, event);
  canvas.onclick = (event) => {
    const found = entryAt(panel, event);
    if (found && operatorsByName(state.fn).has(found[1][3])) select(found[1][3], true);
  };
  paintLanes(panel);
}

/** Both panels to one part of the run. */
function zoomLanes(transform, from) {
  lanesView.transform = transform;
  for (const panel of lanesView.panels) {
    // Each canvas keeps its own; the one under the pointer has it already.
    if (panel !== from) panel.canvas.__zoom = transform;
    paintLanes(panel);
  }
}

function laneX(panel, us) {
  return lanesView.transform.applyX(LANE_LEFT + (us / lanesView.most) * (panel.width - LANE_LEFT - 2));
}

function laneTime(panel, x) {
  return ((lanesView.transform.invertX(x) - LANE_LEFT) / (panel.width - LANE_LEFT - 2)) * lanesView.most;
}

function paintLanes(panel) {
  const context = panel.canvas.getContext("2d"), dense = window.devicePixelRatio || 1;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, panel.width, panel.height);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  const bottom = LANES.length * LANE_HEIGHT;
  for (const tick of ticks(laneTime(panel, LANE_LEFT), laneTime(panel, panel.width), panel.width < 500 ? 4 : 9)) {
    const x = laneX(panel, tick);
    if (x < LANE_LEFT - 1) continue;
    context.strokeStyle = colour("line");
    context.beginPath(); context.moveTo(x, 0); context.lineTo(x, bottom); context.stroke();
    context.fillStyle = colour("quiet");
    context.textAlign = x > panel.width - 30 ? "right" : x < LANE_LEFT + 20 ? "left" : "center";
    context.fillText(tick === 0 ? "0" : time(tick), x, bottom + AXIS_HEIGHT / 2);
  }
  context.textAlign = "left";
  LANES.forEach(([lane, title], row) => {
    const top = row * LANE_HEIGHT;
    context.fillStyle = colour("quiet");
    context.fillText(title, 2, top + LANE_HEIGHT / 2);
    context.strokeStyle = colour("line");
    context.beginPath(); context.moveTo(0, top + LANE_HEIGHT); context.lineTo(panel.width, top + LANE_HEIGHT); context.stroke();
    context.save();
    context.beginPath(); context.rect(LANE_LEFT, top, panel.width - LANE_LEFT, LANE_HEIGHT); context.clip();
    for (const entry of panel.run.lanes[lane]) paintEntry(context, panel, lane, entry, top, colour);
    context.restore();
  });
}

function paintEntry(context, panel, lane, entry, top, colour) {
  const from = laneX(panel, entry[0]), to = laneX(panel, entry[1]);
  if (to < LANE_LEFT || from > panel.width) return;
  const width = Math.max(1, to - from - (to - from > 4 ? 1 : 0)), y = top + 4, height = LANE_HEIGHT - 8;
  const half = LANE_HEIGHT / 2, lower = entry[2].startsWith("NPU") ? half - 1 : 0;
  if (lane === "waits") { // two may wait at once: the NPU's worker below, the host above
    context.strokeStyle = colour("quiet");
    context.setLineDash([3, 2]);
    context.strokeRect(from + 0.5, top + lower + 2.5, Math.max(1, width - 1), half - 4);
    context.setLineDash([]);
  } else {
    context.globalAlpha = isWork(entry) ? 1 : 0.45;
    context.fillStyle = colour(lane === "copies" ? "both" : lane);
    context.fillRect(from, y, width, height);
    context.globalAlpha = 1;
  }
  if (width > 46) {
    const left = Math.max(from, LANE_LEFT) + 5, room = to - left - 6;
    const text = labelOf(entry, lane);
    if (room > 34) {
      context.fillStyle = lane === "waits" || !isWork(entry) ? colour("ink") : "#ffffff";
      const most = Math.max(3, Math.floor(room / 6.4));
      if (lane === "waits") context.fillText(beginning(text, most), left, top + lower + half / 2 + 1);
      else context.fillText(shortened(text, most), left, top + half);
    }
  }
}

function labelOf(entry, lane) {
  const op = entry[3] && operatorsByName(state.fn).get(entry[3]);
  return lane !== "waits" && op && isWork(entry) ? `${kindOf(op)} ${shortNode(op, 60)}` : entry[2];
}

/** Round times between two, about `most` of them. */
function ticks(from, to, most) {
  const raw = (to - from) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let at = Math.ceil(Math.max(0, from) / step); at * step <= to; at += 1) found.push(at * step);
  return found;
}

/** [lane, entry] under the pointer: the shortest of those that cover it, with two pixels' grace. */
function entryAt(panel, event) {
  const box = panel.canvas.getBoundingClientRect();
  const x = event.clientX - box.left, row = LANES[Math.floor((event.clientY - box.top) / LANE_HEIGHT)];
  if (!row || x < LANE_LEFT) return null;
  const early = laneTime(panel, x + 2), late = laneTime(panel, x - 2);
  const there = panel.run.lanes[row[0]].filter((entry) => entry[0] <= early && entry[1] >= late);
  there.sort((a, b) => a[1] - a[0] - (b[1] - b[0]));
  return there.length ? [row[1], there[0]] : null;
}

function pointAt(panel, event) {
  const found = entryAt(panel, event);
  if (!found) return;
  const [lane, entry] = found, op = entry[3] && operatorsByName(state.fn).get(entry[3]);
  lanesView.said.textContent = `${lane}  ${entry[2]}  ${time(entry[1] - entry[0])}, from ${time(entry[0])} to ${time(entry[1])}${op ? `  ${kindOf(op)} ${op.node}` : ""}`;
}

window.addEventListener("resize", () => {
  if (state.view === "timeline") lanesView.panels.forEach(sizeLanes);
});
