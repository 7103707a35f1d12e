// Memory over the calls of a run: what is alive, and what is set aside.

const memoryView = { plot: null };

/** Bytes of tensors that are still to be read, at each call. */
function liveBytes(memory) {
  const steps = new Float64Array(memory.calls + 1);
  for (const tensor of memory.tensors) {
    steps[tensor.first] += tensor.nbytes;
    steps[tensor.last + 1] -= tensor.nbytes;
  }
  const live = [];
  let now = 0;
  for (let call = 0; call < memory.calls; call += 1) live.push((now += steps[call]));
  return live;
}

function drawMemory() {
  const view = byId("view-memory"), memory = state.fn.memory;
  if (memoryView.plot) { memoryView.plot.destroy(); memoryView.plot = null; }
  if (!memory || !memory.calls) {
    fill(view, el("p", { class: "empty" }, "Nothing is allocated."));
    return;
  }
  const live = liveBytes(memory);
  const pool = memory.storages.reduce((sum, one) => sum + one, 0);
  const own = memory.tensors.filter((tensor) => tensor.storage === null).reduce((sum, one) => sum + one.nbytes, 0);
  const every = memory.tensors.reduce((sum, one) => sum + one.nbytes, 0);
  const peak = Math.max(...live), at = live.indexOf(peak);
  const box = el("div", { class: "plot" }), said = el("p", { class: "quiet mono said" }, " ");
  const alive = memory.tensors.filter((tensor) => tensor.first <= at && at <= tensor.last).sort((a, b) => b.nbytes - a.nbytes);
  fill(view,
    el("div", { class: "tiles inner" },
      tile("Set aside for activations", size(pool + own), `${memory.storages.length} pieces, shared over time`),
      tile("Most alive at once", size(peak), `at call ${at + 1} of ${memory.calls}`),
      tile("Without sharing", size(every), "every tensor its own memory"),
      tile("Constants of GPU kernels", size(DATA.artefact.weights_bytes ?? memory.constants), "regions of the NPU carry their own")),
    el("div", { class: "card full" }, el("h2", {}, "Memory over one run"), box, said),
    el("div", { class: "card full" }, el("h2", {}, `Alive at the peak, call ${at + 1}`),
      el("div", { class: "scroll" }, el("table", { class: "plain" },
        el("tr", {}, el("th", {}, "Tensor"), el("th", { class: "number" }, "Size"), el("th", { class: "number" }, "From call"), el("th", { class: "number" }, "To call"), el("th", {}, "Memory")),
        alive.slice(0, 25).map((tensor) => el("tr", {},
          el("td", {}, writtenBy(tensor)),
          el("td", { class: "number" }, size(tensor.nbytes)),
          el("td", { class: "number" }, tensor.first + 1),
          el("td", { class: "number" }, tensor.last + 1),
          el("td", { class: "quiet" }, tensor.storage === null ? "its own: an output" : `piece ${tensor.storage + 1} of ${size(memory.storages[tensor.storage])}`)))))));
  plotMemory(box, said, live, pool + own);
}

/** A tensor by who first touches it, which is who writes it. */
function writtenBy(tensor) {
  const call = state.fn.calls[tensor.first];
  if (!call) return tensor.name;
  const last = call.operators[call.operators.length - 1];
  return [chip(call.device), " ", last ? link(last) : about(call), " ", el("span", { class: "quiet mono" }, call.symbol)];
}

function plotMemory(box, said, live, pool) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, font: "11px system-ui" };
  const calls = state.fn.calls, scale = pool >= 1e6 ? 1e6 : 1e3;
  const x = live.map((_, at) => at + 1);
  memoryView.plot = new uPlot({
    width: Math.max(280, box.clientWidth || 800), height: 280,
    scales: { x: { time: false }, y: { range: (_, low, high) => [0, high * 1.08 || 1] } },
    legend: { show: false },
    cursor: { y: false, drag: { x: true, y: false } },
    axes: [
      { ...axis, label: "call", labelSize: 18, labelFont: "11px system-ui", size: 34 },
      { ...axis, size: 64, values: (_, ticks) => ticks.map((v) => `${v} ${scale === 1e6 ? "MB" : "kB"}`) },
    ],
    series: [
      {},
      { label: "set aside", stroke: colour("--quiet"), width: 1.5, dash: [5, 4], points: { show: false } },
      { label: "alive", stroke: colour("--accent"), width: 2, fill: colour("--accent-soft"), paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } },
    ],
    hooks: { setCursor: [(plot) => {
      const at = plot.cursor.idx;
      if (at === null || at === undefined || !calls[at]) return;
      const call = calls[at];
      said.textContent = `${at + 1}  ${call.device.toUpperCase()}  ${call.symbol}  ${size(live[at])} alive`;
    }] },
  }, [x, x.map(() => pool / scale), live.map((v) => v / scale)], box);
  said.textContent = "— alive   - - set aside";
}

window.addEventListener("resize", () => {
  const plot = memoryView.plot;
  if (plot && state.view === "memory") plot.setSize({ width: Math.max(280, plot.root.parentElement.clientWidth), height: 280 });
});
