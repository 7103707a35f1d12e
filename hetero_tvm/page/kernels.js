// Every call of a run in order, and the OpenCL source of its kernels, unpacked when first asked for.

const kernelView = { sources: null, chosen: null };

async function sources() {
  if (!kernelView.sources) {
    const packed = Uint8Array.from(atob(byId("kernel-sources").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    kernelView.sources = JSON.parse(await new Response(stream).text());
  }
  return kernelView.sources;
}

function symbolsOf(fn) {
  const found = new Map();
  fn.calls.forEach((call, at) => {
    if (!found.has(call.symbol)) found.set(call.symbol, { ...call, at: [], sum: 0, measuredSum: null });
    const one = found.get(call.symbol);
    one.at.push(at);
    if (call.predicted_us !== null) one.sum += call.predicted_us;
    if (call.measured) one.measuredSum = (one.measuredSum || 0) + call.measured.us;
  });
  return [...found.values()];
}

function about(call) {
  if (call.operators.length) return call.operators.join(", ");
  return call.serves ? `a layout for ${call.serves}` : "";
}

function drawKernels() {
  const view = byId("view-kernels"), fn = state.fn, found = symbolsOf(fn);
  const key = (one) => (one.measuredSum === null ? one.sum : one.measuredSum);
  found.sort((a, b) => key(b) - key(a));
  if (!kernelView.chosen || !found.some((one) => one.symbol === kernelView.chosen)) {
    const first = found.find((one) => one.kernels.length) || found[0];
    kernelView.chosen = first ? first.symbol : null;
  }
  const most = Math.max(1e-9, ...found.map(key));
  fill(view, el("div", { class: "kernels" },
    el("div", { class: "kernel-list" }, found.map((one) => el("button", {
      type: "button", class: one.symbol === kernelView.chosen ? "kernel chosen" : "kernel",
      onclick: () => { kernelView.chosen = one.symbol; drawKernels(); },
    },
    el("span", { class: "kernel-head" }, chip(one.device), el("span", { class: "mono" }, one.symbol)),
    el("span", { class: "quiet" }, `${one.at.length > 1 ? `${one.at.length} calls · ` : ""}${time(key(one))} · ${one.operators.length ? shortened(one.operators[one.operators.length - 1], 34) : shortened(about(one), 44)}`),
    el("span", { class: "thin-bar" }, el("span", { class: one.device, "width%": (100 * key(one)) / most }))))),
    el("div", { class: "kernel-source", id: "kernel-source" })));
  showKernel(found.find((one) => one.symbol === kernelView.chosen));
}

async function showKernel(one) {
  const box = byId("kernel-source");
  if (!one) { fill(box, el("p", { class: "empty" }, "Nothing is called.")); return; }
  const fn = state.fn, call = fn.calls[one.at[0]];
  const rates = call.measured ? [
    ["Measured", `${time(call.measured.us)} (first call)`],
    ["Rate", `${call.measured.gflops ? `${call.measured.gflops.toFixed(1)} GFLOP/s, ` : ""}${call.measured.gbps.toFixed(2)} GB/s`],
    ["Of the target's limit", call.measured.of_limit === null ? "–" : `${share(call.measured.of_limit)} of ${call.measured.limited_by}`],
  ] : [];
  const shown = one.at.slice(0, 12).map((at) => [fn.calls[at].operators.length
    ? fn.calls[at].operators.map((name, i) => [i ? ", " : "", link(name)])
    : about(fn.calls[at]) || "–"]);
  fill(box,
    el("h2", { class: "mono" }, one.symbol),
    facts([
      ["Computes", shown.map((row, at) => el("div", {}, row))],
      ["Predicted", `${time(one.sum)} in ${one.at.length} call${one.at.length > 1 ? "s" : ""}`],
      ...rates,
      ["Work of a call", `${call.macs ? `${big(call.macs)}MAC, ` : ""}${size(call.bytes)} read and written`],
      ["Schedule", tuningOf(one)],
    ]));
  if (one.device === "npu") {
    box.append(el("p", { class: "quiet" }, DATA.target.npu_provider === "qnn"
      ? "Compiled by Qualcomm's compiler into a context binary; it has no source."
      : "An ONNX graph that ONNX Runtime runs in the NPU's place; it has no source."));
    return;
  }
  if (!one.kernels.length) { box.append(el("p", { class: "quiet" }, "Machine code for the processor; it has no OpenCL source.")); return; }
  const text = await sources();
  if (kernelView.chosen !== one.symbol) return;
  for (const kernel of one.kernels) {
    const source = text[kernel] || "";
    const copy = el("button", { type: "button", class: "copy", onclick: () => navigator.clipboard && navigator.clipboard.writeText(source) }, "copy");
    box.append(el("div", { class: "source" }, el("div", { class: "source-head" }, el("span", { class: "mono" }, kernel), copy), el("pre", {}, source)));
  }
}

function tuningOf(one) {
  if (one.device !== "gpu") return "–";
  if (!DATA.tuning) return "default: built without a database of tuned kernels";
  const names = new Set(one.operators);
  const use = DATA.tuning.find((entry) => entry.operators.some((name) => names.has(name)));
  if (!use) return "default: no record of it";
  const gain = use.gain ? `, ${use.gain} x the default's speed on ${use.device} (${use.driver})` : "";
  return `${use.schedule}: ${use.why}${gain}`;
}

function openKernel(symbol) {
  kernelView.chosen = symbol;
  openView("kernels");
}
