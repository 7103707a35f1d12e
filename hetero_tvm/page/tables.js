// Operators, refusals, and what every figure is: as tables.

const tableView = { column: "order", down: false, text: "", all: false };
const ROWS_SHOWN = 600;

function drawOperators() {
  const view = byId("view-operators"), fn = state.fn;
  const search = el("input", { type: "search", placeholder: "Filter operators", value: tableView.text, spellcheck: "false" });
  const body = el("div", { class: "scroll" });
  search.addEventListener("input", () => { tableView.text = search.value; operatorRows(body, fn); });
  fill(view, el("div", { class: "bar" }, search, el("span", { class: "quiet" }, "Times are predicted", fn.measured ? "; measured where it says so" : "", ". A bold one is where the operator runs.")), body);
  operatorRows(body, fn);
}

function columnsOf(fn) {
  const columns = [
    ["order", "#", (op) => fn.operators.indexOf(op)],
    ["op", "Operator", kindOf],
    ["node", "Node", (op) => op.node],
    ["device", "Device", (op) => op.device],
  ];
  for (const device of DEVICES) {
    if (fn.operators.some((op) => device in op.cost_us)) columns.push([device, `${device.toUpperCase()} alone`, (op) => op.cost_us[device] ?? -1, true]);
  }
  columns.push(["taken", "Planned", predicted, true]);
  if (fn.measured) columns.push(["measured", "Measured", (op) => measured(op) ?? -1, true]);
  columns.push(["bytes", "Bytes", (op) => op.bytes, true], ["macs", "MACs", (op) => op.macs, true], ["why", "Why", (op) => op.reason]);
  return columns;
}

function operatorRows(body, fn) {
  const columns = columnsOf(fn);
  const words = tableView.text.toLowerCase().split(/\s+/).filter(Boolean);
  const key = (columns.find(([name]) => name === tableView.column) || columns[0])[2];
  const order = new Map(fn.operators.map((op, at) => [op, at]));
  columns[0][2] = (op) => order.get(op);
  const ops = fn.operators.filter((op) => matches(op, words));
  ops.sort((a, b) => {
    const [x, y] = tableView.column === "order" ? [order.get(a), order.get(b)] : [key(a), key(b)];
    const less = typeof x === "string" ? x.localeCompare(y) : x - y;
    return tableView.down ? -less : less;
  });
  const shown = tableView.all ? ops : ops.slice(0, ROWS_SHOWN);
  fill(body, el("table", { class: "rows" },
    el("thead", {}, el("tr", {}, columns.map(([name, title, , number]) => {
      const mark = tableView.column === name ? (tableView.down ? " ↓" : " ↑") : "";
      return el("th", { class: number ? "number" : "", "aria-sort": mark ? (tableView.down ? "descending" : "ascending") : "none" },
        el("button", { type: "button", class: "head", onclick: () => {
          tableView.down = tableView.column === name ? !tableView.down : Boolean(number);
          tableView.column = name;
          operatorRows(body, fn);
        } }, title + mark));
    }))),
    el("tbody", {}, shown.map((op) => el("tr", {}, columns.map(([name, , , number]) =>
      el("td", { class: `${number ? "number" : ""}${name === "why" ? " why" : ""}` }, cell(op, name, order))))))),
  ops.length > shown.length ? el("button", { class: "more", type: "button", onclick: () => { tableView.all = true; operatorRows(body, fn); } }, `Show all ${ops.length}`) : null);
}

function cell(op, name, order) {
  switch (name) {
    case "order": return String(order.get(op) + 1);
    case "op": return kindOf(op);
    case "node": return link(op.name);
    case "device": return chip(op.device);
    case "taken": return time(predicted(op));
    case "measured": {
      const found = measured(op);
      return found === null ? "–" : `${Object.values(op.measured).some((one) => one.apportioned) ? "~" : ""}${time(found)}`;
    }
    case "bytes": return size(op.bytes);
    case "macs": return op.macs ? big(op.macs) : "–";
    case "why": return op.reason;
    default: {
      if (name in op.declined) return el("span", { class: "no", title: op.declined[name] }, "declines");
      if (!(name in op.cost_us)) return "–";
      return el(op.device === name ? "strong" : "span", {}, time(op.cost_us[name]));
    }
  }
}

function drawRefusals() {
  const groups = new Map();
  for (const op of state.fn.operators) {
    for (const [device, why] of Object.entries(op.declined)) {
      const key = `${device} ${kindOf(op)} ${why}`;
      if (!groups.has(key)) groups.set(key, { device, kind: kindOf(op), why, ops: [] });
      groups.get(key).ops.push(op);
    }
  }
  const found = [...groups.values()].sort((a, b) => b.ops.length - a.ops.length);
  const view = byId("view-refusals");
  if (!found.length) {
    fill(view, el("p", { class: "empty" }, "No device refuses any operator: every placement was a choice."));
    return;
  }
  fill(view,
    el("p", { class: "quiet lead" }, `${found.reduce((sum, one) => sum + one.ops.length, 0)} refusals for ${found.length} reasons. What a device refuses runs on another one.`),
    el("div", { class: "cards single" }, found.map((one) => el("div", { class: "card" },
      el("p", {}, chip(one.device), " ", el("strong", {}, one.kind), el("span", { class: "quiet" }, ` × ${one.ops.length}`)),
      el("p", {}, one.why),
      el("p", { class: "names" }, one.ops.slice(0, 40).map((op, at) => [at ? ", " : "", link(op.name)]), one.ops.length > 40 ? ` and ${one.ops.length - 40} more` : null)))));
}

const MEANINGS = [
  ["measured", "by running the artefact, where the report was given a profile of it"],
  ["vendor-estimated", "Qualcomm's compiler predicted it for a chip of which it has a cost table, scaled to the target"],
  ["modelled", "computed from the target's spec, whose figures are listed below"],
  ["simulated", "taken on Qualcomm's x86 simulator of the NPU: right answers, not the chip's time"],
];

function drawProvenance() {
  const fn = state.fn, target = DATA.target, artefact = DATA.artefact;
  fill(byId("view-provenance"), el("div", { class: "cards" },
    el("div", { class: "card" }, el("h2", {}, "What the words mean"),
      MEANINGS.map(([word, text]) => el("p", {}, badge(word), " ", text)),
      DATA.profile ? el("p", {}, `The profile: ${DATA.profile.provenance}; ${DATA.profile.runs} runs.`) : el("p", { class: "quiet" }, "No profile was given: nothing here was measured but what the target's figures say.")),
    el("div", { class: "card" }, el("h2", {}, "What it is"), facts([
      ["Model", DATA.model.name],
      ["SHA-256 of the model", DATA.model.sha256],
      ["Artefact", `${artefact.name}, ${size(artefact.bytes)}`],
      ["SHA-256 of its code", artefact.sha256],
      ["Target", `${target.name}: ${target.soc}${target.htp_arch ? `, HTP v${target.htp_arch}` : ""}`],
      ["NPU by", target.npu_provider],
      ["Host code for", target.host],
      ["Storage", DATA.dtype],
      ["Inputs", DATA.inputs.map((t) => `${t.name} ${t.dtype} [${t.shape.join(", ")}]`).join("; ")],
      ["Outputs", DATA.outputs.map((t) => `${t.name} ${t.dtype} [${t.shape.join(", ")}]`).join("; ")],
      ["Built with", Object.entries(DATA.versions).map(([name, version]) => `${name} ${version}`).join(", ")],
      ["Report by", `hetero_tvm ${DATA.version}`],
    ])),
    el("div", { class: "card full" }, el("h2", {}, "Figures that predicted times rest on"),
      el("table", { class: "plain" }, fn.figures.map((figure) => el("tr", {}, el("td", {}, el("em", {}, figure.provenance)), el("td", { class: "grow" }, figure.source))))),
    el("div", { class: "card full" }, el("h2", {}, "Figures that waits and borders rest on"),
      el("table", { class: "plain" }, Object.entries(fn.waiting).map(([key, figure]) => el("tr", {},
        el("td", { class: "mono" }, key), el("td", { class: "number" }, String(figure.value)), el("td", {}, el("em", {}, figure.provenance)), el("td", { class: "grow" }, figure.source))))),
    el("div", { class: "card full" }, el("h2", {}, "Licences of what draws this page"),
      Object.entries(DATA.licences || {}).map(([name, text]) => el("details", {}, el("summary", {}, name), el("pre", {}, text))))));
}
