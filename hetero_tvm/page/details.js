// All that is known of one operator.

function drawDetails(name) {
  const panel = byId("details"), fn = state.fn;
  const op = name === null ? null : operatorsByName(fn).get(name);
  panel.classList.toggle("open", Boolean(op));
  if (!op) {
    fill(panel, el("div", { class: "hint" },
      el("h2", {}, "Click an operator"),
      el("p", {}, "to see where it runs and why, what it would take elsewhere, and what it reads and writes."),
      el("p", {}, "Drag to move, scroll or pinch to zoom. Enter in the search goes from hit to hit."),
      el("p", {}, fn.measured ? "Times on boxes are measured." : "Times on boxes are predicted."),
      el("p", {}, "The line at the foot of a box is its share of the heaviest operator's time; of a split operator the coloured parts are what each device has.")));
    return;
  }
  const readers = fn.operators.filter((one) => one.inputs.includes(op.name));
  fill(panel,
    el("button", { class: "icon close", type: "button", "aria-label": "Close", onclick: () => select(null, false) }, "×"),
    el("h2", {}, kindOf(op)),
    el("p", { class: "node-name" }, op.node),
    el("p", {}, chip(op.device), op.region === null ? null : el("span", { class: "quiet" }, ` NPU region ${op.region}`)),
    el("p", { class: "reason" }, op.reason),
    splitPicture(op),
    earlyLine(op),
    el("h3", {}, "Alternatives"),
    alternatives(op),
    Object.keys(op.measured).length ? [el("h3", {}, "Measured"), measuredTable(op)] : null,
    Object.keys(op.declined).length ? [el("h3", {}, "Refused"), Object.entries(op.declined).map(([device, why]) =>
      el("p", { class: "refusal" }, chip(device), " ", why))] : null,
    el("h3", {}, "Data"),
    facts([
      ["Result", shapes(op) || "–"],
      ["Read and written", size(op.bytes)],
      ["Of that constants", size(op.weight_bytes)],
      ["Multiply-accumulates", op.macs ? count(op.macs) : "none"],
      ["In the program", op.name],
    ]),
    el("h3", {}, "Neighbours"),
    neighbours("reads", op.inputs, op.from_model_input ? "the model's inputs" : null),
    neighbours("read by", readers.map((one) => one.name), op.is_output ? "the model's outputs" : null),
    el("h3", {}, "Runs in"),
    op.calls.length ? op.calls.map((at) => callLine(fn.calls[at])) : el("p", { class: "quiet" }, "no call of its own: a view, or folded into another"),
    figureList(op));
}

function facts(rows) {
  return el("table", { class: "plain facts" }, rows.map(([key, value]) => el("tr", {}, el("td", { class: "quiet" }, key), el("td", {}, value))));
}

function splitPicture(op) {
  if (!op.split) return null;
  const { kind, at, extent, npu_share: npu, us } = op.split;
  return el("div", { class: "split-picture" },
    el("div", { class: "stack tall" },
      el("span", { class: "npu", "width%": 100 * npu }, `NPU ${at}`),
      el("span", { class: "gpu", "width%": 100 * (1 - npu) }, `GPU ${extent - at}`)),
    el("p", { class: "quiet" }, `${kind} split along axis ${op.split.axis} of ${extent}: ${time(us.npu)} beside ${time(us.gpu)}`));
}

function earlyLine(op) {
  if (!op.early) return null;
  const { at, extent, axis, us } = op.early;
  return el("p", { class: "quiet" }, `in two parts along axis ${axis}, ${at} of ${extent} first: ${time(us[0])}, then ${time(us[1])}`);
}

/** What an operator's predicted time on a device is. */
function restsOn(op, device, us) {
  return (op.rests[device] || { provenance: us ? "modelled" : "a view" }).provenance;
}

/** Every device alone, and every split that was considered, best first. */
function alternatives(op) {
  const rows = Object.entries(op.cost_us).map(([device, us]) => ({
    title: `${device.toUpperCase()} alone`, parts: { [device]: us }, longest: us,
    chosen: op.device === device && !op.early, words: [restsOn(op, device, us)],
  }));
  if (op.early) {
    const us = op.early.us[0] + op.early.us[1];
    rows.push({ title: `GPU, ${op.early.at}/${op.early.extent} first`, parts: { gpu: us }, longest: us,
      chosen: true, words: [restsOn(op, "gpu", us)] });
  }
  for (const offer of op.offers) {
    rows.push({
      title: `${offer.kind}, NPU ${offer.at}/${offer.extent}`, parts: offer.us,
      longest: Math.max(...Object.values(offer.us)), words: Object.entries(offer.us).map(([device, us]) => restsOn(op, device, us)),
      chosen: op.split && op.split.kind === offer.kind && op.split.axis === offer.axis && op.split.at === offer.at,
    });
  }
  if (!rows.length) return el("p", { class: "quiet" }, "no cost is known");
  rows.sort((a, b) => a.longest - b.longest);
  const most = Math.max(1e-9, ...rows.map((row) => row.longest));
  const shown = rows.slice(0, 10);
  const chosen = rows.find((row) => row.chosen);
  if (chosen && !shown.includes(chosen)) shown.push(chosen);
  return el("div", { class: "bars" }, shown.map((row) => el("div", { class: row.chosen ? "bar-row followed" : "bar-row" },
    el("span", { class: "bar-title" }, row.title),
    el("span", { class: "bar-track" }, Object.entries(row.parts).map(([device, us]) =>
      el("span", { class: `bar-fill lane ${device}`, "width%": (100 * us) / most }))),
    el("span", { class: "number" }, time(row.longest)),
    el("span", {}, [...new Set(row.words)].map((word) => el("span", { class: `dot ${provenanceKind(word)}`, title: word }))))),
  el("p", { class: "quiet dots" }, [...new Set(shown.flatMap((row) => row.words))].map((word) => [el("span", { class: `dot ${provenanceKind(word)}` }), ` ${word}  `])),
  rows.length > shown.length ? el("p", { class: "quiet" }, `and ${rows.length - shown.length} more splits`) : null);
}

function measuredTable(op) {
  return el("table", { class: "plain" }, Object.entries(op.measured).map(([device, found]) => el("tr", {},
    el("td", {}, chip(device)),
    el("td", { class: "number" }, `${found.apportioned ? "~" : ""}${time(found.us)}`),
    el("td", { class: "number quiet" }, `predicted ${time(op.part_us[device])}`),
    el("td", {}, badge(measuredWord(device))))),
  Object.values(op.measured).some((one) => one.apportioned) ? el("tr", {}, el("td", { colspan: "4", class: "quiet" },
    "~ its part of one kernel's time, shared out as the plan predicted")) : null);
}

function neighbours(word, names, also) {
  if (!names.length && !also) return null;
  return el("p", {}, el("span", { class: "quiet" }, `${word} `),
    names.map((name, at) => [at ? ", " : "", link(name)]),
    also ? [names.length ? ", " : "", also] : null);
}

function callLine(call) {
  const open = call.kernels.length
    ? el("button", { class: "link mono", type: "button", onclick: () => openKernel(call.symbol) }, call.symbol)
    : el("span", { class: "mono" }, call.symbol);
  const also = call.operators.length - 1;
  return el("p", { class: "call" }, chip(call.device), " ", open,
    also > 0 ? el("span", { class: "quiet" }, ` with ${also} more`) : null);
}

function figureList(op) {
  const used = Object.entries(op.rests).map(([device, rest]) => [device, state.fn.figures[rest.figure]]).filter(([, f]) => f);
  if (!used.length) return null;
  return [el("h3", {}, "What the predictions rest on"),
    used.map(([device, figure]) => el("p", { class: "figure" }, chip(device), " ", el("em", {}, figure.provenance), ": ", figure.source))];
}
