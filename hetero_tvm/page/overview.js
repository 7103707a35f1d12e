// The tiles on top, and what the whole plan comes to.

function tile(title, value, words, badges) {
  return el("div", { class: "tile" },
    el("span", { class: "tile-title" }, title),
    el("strong", {}, value),
    el("span", { class: "tile-about" }, words, [badges].flat().filter(Boolean).map((word) => [badge(word), " "])));
}

function drawTiles() {
  const fn = state.fn, totals = fn.totals, run = fn.measured ? DATA.profile : null;
  const macs = totals ? totals.macs : { npu: 0, gpu: 0, cpu: 0 };
  const all = macs.npu + macs.gpu + macs.cpu || 1;
  const onBoth = fn.operators.filter((op) => op.split).length;
  fill(byId("tiles"),
    tile("One run", time(fn.predicted_us), "predicted ", ["modelled", totals && totals.provenance.includes("vendor") ? "vendor-estimated" : null]),
    run ? tile("One run", time(run.run_us), `median of ${run.runs} `, run.provenance.split(";")[0]) : null,
    run ? tile("GPU and NPU at once", time(run.overlap_us), `${share(run.overlap_us / run.run_us)} of the run`) : null,
    el("div", { class: "tile wide" },
      el("span", { class: "tile-title" }, "Work by device"),
      el("div", { class: "stack" }, DEVICES.filter((d) => macs[d]).map((d) => el("span", { class: d, "width%": (100 * macs[d]) / all }))),
      el("span", { class: "tile-about" }, DEVICES.filter((d) => macs[d]).map((d) => `${d.toUpperCase()} ${share(macs[d] / all)}`).join(" · "), ` of ${big(all)}MAC`)),
    tile("Operators", count(fn.operators.length), onBoth ? `${onBoth} on both devices at once` : "none split"),
    tile("NPU regions", count(totals ? totals.npu_regions : 0), totals ? `${size(totals.border_bytes)} over their border` : ""),
    tile("Copied", run ? size(run.copied_bytes) : "nothing", run ? "counted in every run" : "GPU and NPU share one memory"));
}

function drawOverview() {
  const fn = state.fn, view = byId("view-overview");
  const modes = Object.entries(fn.modes);
  const longest = Math.max(1, ...modes.map(([, mode]) => mode.predicted_us), ...Object.values(fn.measured_modes_us));
  const heaviest = fn.operators.slice().sort((a, b) => weight(b) - weight(a)).slice(0, 12);
  const total = fn.operators.reduce((sum, op) => sum + weight(op), 0) || 1;
  fill(view,
    el("div", { class: "cards" },
      modes.length ? el("div", { class: "card" },
        el("h2", {}, "Modes side by side"),
        el("p", { class: "quiet" }, "The best plan of each kind; the build follows the one with the mark."),
        el("div", { class: "bars" }, modes.slice().reverse().map(([name, mode]) => modeBar(fn, name, mode, longest)))) : null,
      el("div", { class: "card" },
        el("h2", {}, "Heaviest operators"),
        el("p", { class: "quiet" }, fn.measured ? "By measured time." : "By predicted time."),
        el("table", { class: "plain" }, heaviest.filter(weight).map((op) => el("tr", {},
          el("td", {}, chip(op.device)),
          el("td", { class: "grow" }, link(op.name, `${kindOf(op)} · ${shortNode(op, 40)}`)),
          el("td", { class: "number" }, time(weight(op))),
          el("td", { class: "number quiet" }, share(weight(op) / total)))))),
      el("div", { class: "card" }, el("h2", {}, "Busy and waiting"), busyTable(fn)),
      fn.npu_regions ? el("div", { class: "card full" }, el("h2", {}, "NPU regions"), regionTable(fn)) : null,
      DATA.lengths ? el("div", { class: "card full" },
        el("h2", {}, "Other lengths"),
        el("p", {}, `Filling up to a built length: ${DATA.lengths.padding}`),
        el("p", {}, `Cutting into built lengths: ${DATA.lengths.chunking}`)) : null));
}

function weight(op) {
  const found = measured(op);
  return found === null ? predicted(op) : found;
}

function modeBar(fn, name, mode, longest) {
  const found = fn.measured_modes_us[name];
  const followed = Math.abs(mode.predicted_us - fn.predicted_us) < 1e-6;
  return el("div", { class: followed ? "bar-row followed" : "bar-row" },
    el("span", { class: "bar-title" }, MODE_TITLES[name]),
    el("span", { class: "bar-track" },
      el("span", { class: `bar-fill ${name === "gpu" || name === "npu" ? name : "both"}`, "width%": (100 * mode.predicted_us) / longest }),
      found ? el("span", { class: "bar-fill thin", "width%": (100 * found) / longest }) : null),
    el("span", { class: "number" }, time(mode.predicted_us), found ? ` · ${time(found)} measured` : ""),
    el("span", { class: "quiet" }, mode.exact ? "exact" : mode.gap === null ? "" : `at most ${share(mode.gap)} off`));
}

function busyTable(fn) {
  const run = fn.measured ? DATA.profile : null, totals = fn.totals;
  const waits = totals ? totals.waits.pairs.filter((pair) => pair.waiter !== "cpu") : [];
  return el("table", { class: "plain" },
    el("tr", {}, el("th", {}), el("th", { class: "number" }, "predicted"), run ? el("th", { class: "number" }, "measured") : null),
    DEVICES.filter((d) => totals && (totals.busy_us[d] || (run && run.busy_us[d]))).map((d) => el("tr", {},
      el("td", {}, chip(d), " busy"),
      el("td", { class: "number" }, time(totals.busy_us[d])),
      run ? el("td", { class: "number" }, time(run.busy_us[d])) : null)),
    waits.map((pair) => el("tr", {},
      el("td", {}, `${pair.waiter.toUpperCase()} waits for ${pair.on.toUpperCase()}, ${pair.count} times`),
      el("td", { class: "number" }, time(pair.us)),
      run ? el("td", { class: "number" }, time(run.waits_us[`${pair.waiter} for ${pair.on}`])) : null)),
    run ? Object.entries(run.idle_us).map(([device, causes]) => Object.entries(causes).map(([cause, us]) => el("tr", {},
      el("td", {}, `${device.toUpperCase()} idle: ${cause}`), el("td", {}), el("td", { class: "number" }, time(us))))) : null);
}

function regionTable(fn) {
  const head = ["Region", "Operators", "Modelled", "Estimated", "From … to", "Filled", "Spilled", ""];
  return el("div", { class: "scroll" }, el("table", { class: "plain" },
    el("tr", {}, head.map((word, at) => el("th", at ? { class: "number" } : {}, word))),
    fn.npu_regions.map((region) => {
      const found = region.estimated, raw = found.proxy && found.proxy.unscaled;
      return el("tr", {},
        el("td", {}, region.symbol),
        el("td", { class: "number" }, region.operators.length),
        el("td", { class: "number" }, time(region.predicted.us)),
        el("td", { class: "number" }, found.us === null ? "–" : time(found.us)),
        el("td", { class: "number" }, found.us === null ? found.reason : `${time(found.low_us)} … ${time(found.high_us)}`),
        el("td", { class: "number" }, raw ? size(raw.input_fill_bytes + raw.intermediate_fill_bytes) : "–"),
        el("td", { class: "number" }, raw ? size(raw.output_spill_bytes + raw.intermediate_spill_bytes) : "–"),
        el("td", {}, badge(region.provenance)));
    })));
}
