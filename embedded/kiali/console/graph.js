// The graph page: what is chosen is in the address, what Kiali answers is drawn and said in words, again and again.

import { codeText, element, Picture } from "./picture.js";
import { graph, namespaces, number, scrapeInterval } from "./kiali.js";

const PREFERRED = ["default", "layer7"]; // the namespaces of the lab's two stories
const root = document.documentElement;
const part = (id) => document.getElementById(id);
const pickers = { duration: part("duration"), refresh: part("refresh") };
const picture = new Picture(part("graph"), pick);
const rows = new Map(); // edge id -> table row
let chosen = null; // names of namespaces; null while nobody has chosen
let known = [];
let scrape; // seconds
let controller = new AbortController();
let timer;
let picked = "";
let drawn = ""; // what the last picture shows, in words

Object.defineProperty(window, "ambientGraph", { get: () => picture.drawn });

function readAddress() {
  const parameters = new URLSearchParams(location.search);
  for (const [name, picker] of Object.entries(pickers)) {
    const value = parameters.get(name);
    if ([...picker.options].some((option) => option.value === value)) picker.value = value;
  }
  const names = parameters.get("namespaces");
  if (names !== null) chosen = names.split(",").filter(Boolean);
}

function writeAddress() {
  const values = new URLSearchParams(chosen ? { namespaces: chosen.join(",") } : {});
  for (const [name, picker] of Object.entries(pickers)) values.set(name, picker.value);
  // With the path: "?..." alone would be read from the base address.
  history.replaceState(null, "", `${location.pathname}?${values.toString().replaceAll("%2C", ",")}`);
}

/** The namespaces to ask for: those chosen, else the lab's, else the first. */
function selection() {
  if (chosen) return chosen;
  const names = known.map(({ name }) => name);
  const preferred = PREFERRED.filter((name) => names.includes(name));
  return preferred.length ? preferred : names.slice(0, 1);
}

/** Draw what is chosen now, and again after the interval. */
async function refresh() {
  clearTimeout(timer);
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  try {
    known = await namespaces(signal);
    offer();
    const there = selection().filter((name) => known.some((namespace) => namespace.name === name));
    const { duration } = pickers;
    const span = `the last ${duration.selectedOptions[0].text}`;
    const nothing = { time: new Date(), nodes: [], edges: [] };
    const found = there.length ? await graph(there, duration.value, signal) : nothing;
    if (!found.nodes.length) scrape ??= await scrapeInterval(signal);
    show(found, there, span);
  } catch (error) {
    if (signal.aborted) return;
    fail(error);
  }
  const seconds = Number(pickers.refresh.value);
  if (seconds) timer = setTimeout(refresh, seconds * 1000);
}

/** What is chosen has changed: the picture is out of date until Kiali has answered. */
function change() {
  root.dataset.state = "loading";
  writeAddress();
  refresh();
}

function show(found, names, span) {
  picture.show(found);
  fillTable(found.edges);
  pick(rows.has(picked) ? picked : "");
  const time = found.time.toLocaleTimeString("en-GB");
  drawn = `${time}: ${span} in ${names.join(" and ") || "no namespace"}`;
  part("facts").textContent = `${found.nodes.length} nodes, ${found.edges.length} edges at ${time}`;
  part("words").textContent = found.nodes.length ? "" : whyEmpty(names, span);
  part("error").hidden = true;
  part("error").replaceChildren();
  root.dataset.state = "ready";
}

function whyEmpty(names, span) {
  const missing = selection().filter((name) => !names.includes(name));
  const lost = missing.length ? `There is no namespace ${missing.join(", ")}. ` : "";
  if (!names.length) return `${lost}Choose a namespace to draw its traffic.`;
  const pause = scrape > 1 ? ` Prometheus reads every ${scrape} seconds and needs two readings to see a rate.` : "";
  const seen = `No traffic seen in ${names.join(" and ")} in ${span}.`;
  return `${lost}${seen} Send some requests, or look further back.${pause}`;
}

function fail(error) {
  const shown = drawn ? `The picture is still the one of ${drawn}.` : "There is nothing to draw yet.";
  const message = part("error");
  if (message.textContent !== error.message + shown) { // else it would be read out again
    message.replaceChildren(element("p", "", error.message), element("p", "", shown));
  }
  message.hidden = false;
  part("words").textContent = "";
  root.dataset.state = "error";
}

/** One check box for each namespace; those that are there stay, and with them the focus. */
function offer() {
  const selected = selection();
  part("chosen").textContent = selected.join(", ") || "none";
  const gone = selected.filter((name) => !known.some((namespace) => namespace.name === name));
  const offered = [...known, ...gone.map((name) => ({ name, gone: true }))];
  const list = part("choices");
  const signature = JSON.stringify(offered);
  if (list.dataset.offered !== signature) {
    list.dataset.offered = signature;
    const focused = list.contains(document.activeElement) ? document.activeElement.value : null;
    list.replaceChildren(...offered.map(choice));
    list.querySelector(`input[value="${CSS.escape(focused ?? "")}"]`)?.focus();
  }
  for (const box of list.querySelectorAll("input")) box.checked = selected.includes(box.value);
}

function choice({ name, isAmbient, gone }) {
  const box = element("input", "");
  box.type = "checkbox";
  box.value = name;
  const note = gone ? " not there" : isAmbient ? " ambient" : "";
  return element("label", "", box, name, element("small", "", note));
}

function fillTable(edges) {
  const order = edges.map(({ id }) => id).join();
  const body = part("rows");
  for (const edge of edges) {
    if (!rows.has(edge.id)) rows.set(edge.id, row(edge));
    const cells = [edge.protocol, edge.rate, edge.errors ? `${number(edge.errors)} %` : "none",
      responseText(edge), tlsText(edge)];
    [...rows.get(edge.id).cells].slice(2).forEach((cell, index) => {
      cell.replaceChildren(...[cells[index]].flat());
    });
    rows.get(edge.id).classList.toggle("failed", edge.errors > 0);
  }
  if (body.dataset.order === order) return;
  body.dataset.order = order;
  const focused = document.activeElement;
  for (const id of rows.keys()) if (!edges.some((edge) => edge.id === id)) rows.delete(id);
  body.replaceChildren(...edges.map(({ id }) => rows.get(id)));
  if (body.contains(focused)) focused.focus(); // moving a row takes the focus from it
}

function row({ id, from, to }) {
  const button = element("button", "", from.name);
  button.type = "button";
  button.title = `${from.name} to ${to.name}: stress it in the graph`;
  button.addEventListener("click", () => pick(picked === id ? "" : id));
  const place = ({ kind, namespace }) => element("small", "", `${kind} · ${namespace}`);
  const head = element("th", "", button, place(from));
  head.scope = "row";
  const cells = Array.from({ length: 5 }, () => element("td", ""));
  const made = element("tr", "", head, element("td", "", element("b", "", to.name), place(to)), ...cells);
  // A narrow page shows them beside the cells.
  const titles = document.querySelectorAll("thead th");
  [...made.cells].forEach((cell, index) => { cell.dataset.title = titles[index].textContent; });
  made.dataset.id = id;
  return made;
}

function responseText({ responses, protocol }) {
  const texts = responses.map(({ code, percent, flags }) => {
    const words = [codeText(code, protocol), ...flags].filter(Boolean).join(" ");
    return words && `${words}: ${number(percent)} %`;
  });
  return texts.filter(Boolean).join(", ") || "no codes";
}

function tlsText({ mtls }) {
  return mtls ? [element("i", "lock"), `${number(mtls)} %`] : "not reported";
}

/** Stress an edge in the graph and in the table, or none. */
function pick(edge) {
  picked = edge;
  picture.pick(edge);
  for (const [id, line] of rows) {
    line.querySelector("button").setAttribute("aria-pressed", String(id === edge));
  }
}

function closeMenu(event) {
  const menu = part("namespaces");
  if (event.type === "keydown" && event.key === "Escape" && menu.open) {
    menu.open = false;
    menu.querySelector("summary").focus();
  } else if (event.type === "pointerdown" && !menu.contains(event.target)) menu.open = false;
}

readAddress();
part("choices").addEventListener("change", () => {
  chosen = [...part("choices").querySelectorAll("input:checked")].map(({ value }) => value);
  change();
});
for (const picker of Object.values(pickers)) picker.addEventListener("change", change);
part("now").addEventListener("click", refresh);
part("closer").addEventListener("click", () => picture.zoom(1.25));
part("farther").addEventListener("click", () => picture.zoom(0.8));
part("fit").addEventListener("click", () => picture.fit());
document.addEventListener("keydown", closeMenu);
document.addEventListener("pointerdown", closeMenu);
refresh();
