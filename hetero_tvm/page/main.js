// Which part is shown, in which light, and of which function.

const VIEWS = {
  graph: ["Graph", () => { drawLegend(); drawGraph(); }],
  overview: ["Overview", drawOverview],
  timeline: ["Timeline", drawTimeline],
  operators: ["Operators", drawOperators],
  refusals: ["Refusals", drawRefusals],
  memory: ["Memory", drawMemory],
  kernels: ["Kernels", drawKernels],
  provenance: ["Provenance", drawProvenance],
};
const drawn = new Set();

function openView(name) {
  state.view = name in VIEWS ? name : "graph";
  for (const one of Object.keys(VIEWS)) {
    byId(`view-${one}`).hidden = one !== state.view;
    const tab = byId(`tab-${one}`);
    tab.setAttribute("aria-selected", String(one === state.view));
    if (one === state.view) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  // These follow what was chosen elsewhere, and sizes that are known only once they are seen.
  if (!drawn.has(state.view) || ["kernels", "memory", "timeline"].includes(state.view)) {
    VIEWS[state.view][1]();
    drawn.add(state.view);
  }
  try { history.replaceState(null, "", `#${state.view}`); } catch (error) { /* not from every file */ }
}

function chooseFunction(index) {
  state.fn = DATA.functions[index];
  state.selected = null;
  graphView.hidden.clear();
  drawn.clear();
  drawTiles();
  drawDetails(null);
  openView(state.view);
}

function startHeader() {
  const target = DATA.target;
  byId("title").textContent = DATA.model.name;
  byId("subtitle").textContent = `${target.name} · ${target.soc}${target.htp_arch ? ` · HTP v${target.htp_arch}` : ""} · ${DATA.dtype}`;
  const pick = byId("function");
  byId("function-word").textContent = DATA.is_language_model ? "new tokens" : "length";
  DATA.functions.forEach((fn, at) => pick.append(el("option", { value: at }, fn.length === null ? fn.name : fn.length)));
  pick.value = String(DATA.functions.indexOf(state.fn));
  byId("function-pick").hidden = DATA.functions.length < 2;
  pick.addEventListener("change", () => chooseFunction(Number(pick.value)));
  fill(byId("tabs"), Object.entries(VIEWS).map(([name, [title]]) => el("button", {
    type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `view-${name}`, onclick: () => openView(name),
  }, title)));
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("hetero-theme", root.dataset.theme); } catch (error) { /* private mode */ }
    if (state.view === "memory") drawMemory();
    if (state.view === "timeline") drawTimeline();
  });
  try {
    const kept = localStorage.getItem("hetero-theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch (error) { /* private mode */ }
}

startHeader();
startGraph();
onSelect(drawDetails);
drawTiles();
drawDetails(null);
openView(location.hash.slice(1) || "graph");
document.documentElement.dataset.ready = "yes";
