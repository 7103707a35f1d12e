"use strict";
// What every part of the page uses: the data, elements, figures in words. Names are the model's and
// not to be trusted: all of them become text nodes, none becomes markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const DEVICES = ["npu", "gpu", "cpu"];
const PLACES = ["npu", "gpu+npu", "gpu", "cpu"];
const MODE_TITLES = { split: "Split", layer: "Layer level", npu: "NPU only", gpu: "GPU only" };

// First what was measured, else the longest.
const state = { fn: DATA.functions.find((fn) => fn.measured) || DATA.functions[DATA.functions.length - 1], selected: null, view: "graph" };

function byId(id) {
  return document.getElementById(id);
}

/** An element; `attributes` are set as properties where one of that name exists. */
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (name === "class") made.className = value;
    else if (name === "width%") made.style.width = `${Math.max(0, Math.min(100, value))}%`;
    else made.setAttribute(name, value);
  }
  append(made, children);
  return made;
}

function append(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

function placeClass(place) {
  return place === "gpu+npu" ? "both" : place;
}

function chip(place, text) {
  return el("span", { class: `chip ${placeClass(place)}` }, text || place.toUpperCase().replace("+", " + "));
}

function provenanceKind(word) {
  return word.startsWith("simulated")
    ? "simulated"
    : word.startsWith("measured")
      ? "measured"
      : word.includes("vendor") && !word.startsWith("modelled")
        ? "vendor"
        : "modelled";
}

function badge(word) {
  return el("span", { class: `badge ${provenanceKind(word)}` }, word);
}

function time(us) {
  if (us === null || us === undefined) return "–";
  if (us >= 1e6) return `${(us / 1e6).toFixed(2)} s`;
  if (us >= 1e3) return `${(us / 1e3).toFixed(us >= 1e5 ? 0 : us >= 1e4 ? 1 : 2)} ms`;
  if (us > 0 && us < 0.05) return "< 0.1 µs";
  return `${us.toFixed(us >= 100 ? 0 : 1)} µs`;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= scale) return `${(bytes / scale).toFixed(bytes >= 100 * scale ? 0 : 1)} ${unit}`;
  }
  return `${bytes} B`;
}

function count(number) {
  return Math.round(number).toLocaleString("en-US");
}

function big(number) {
  for (const [unit, scale] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (number >= scale) return `${(number / scale).toFixed(number >= 100 * scale ? 0 : 1)} ${unit}`;
  }
  return String(number);
}

function share(part) {
  return `${(100 * part).toFixed(part > 0 && part < 0.1 ? 1 : 0)} %`;
}

function kindOf(op) {
  return op.op.replace(/^relax\.(nn\.|image\.)?/, "").replace(/^hetero\./, "");
}

/** The node's name without what all names of the function begin with; its end where it is long. */
function shortNode(op, most) {
  const fn = state.fn;
  if (fn.prefix === undefined) {
    const names = fn.operators.map((one) => one.node);
    let common = names.length > 3 ? names[0] : "";
    for (const name of names) while (!name.startsWith(common)) common = common.slice(0, -1);
    fn.prefix = common.slice(0, common.lastIndexOf("/") + 1).length;
  }
  const rest = op.node.slice(fn.prefix) || op.node;
  return rest.length <= most ? rest : `…${rest.slice(rest.length - most + 1)}`;
}

/** What the operator is predicted to take where it was put: the longer part of a split one. */
function predicted(op) {
  return Math.max(0, ...Object.values(op.part_us));
}

function measured(op) {
  const found = Object.values(op.measured).map((one) => one.us);
  return found.length ? Math.max(...found) : null;
}

function shapes(op) {
  return op.tensors.map((t) => `${t.dtype} [${t.shape.join(", ")}]`).join("; ");
}

/** What a time of the profile is: its NPU may have been a simulator. */
function measuredWord(device) {
  return device === "npu" && DATA.profile.provenance.includes("simulated") ? "simulated" : "measured";
}

function operatorsByName(fn) {
  fn.byName = fn.byName || new Map(fn.operators.map((op) => [op.name, op]));
  return fn.byName;
}

function link(name, shown) {
  const op = operatorsByName(state.fn).get(name);
  if (!op) return document.createTextNode(shown || name);
  return el("button", { class: "link", type: "button", title: op.node, onclick: () => select(name, true) }, shown || shortNode(op, 46));
}

const listeners = [];
function onSelect(listener) {
  listeners.push(listener);
}

/** Select an operator of the current function; `show` moves to the graph. */
function select(name, show) {
  state.selected = name;
  if (show) openView("graph");
  for (const listener of listeners) listener(name, show);
}
