// The picture: Cytoscape draws shapes and lines, HTML above it the words, so that they are set like the rest.

import cytoscape from "./cytoscape.esm.min.mjs";
import { compare, isFailure, number } from "./kiali.js";
import { arrange } from "./layout.js";

const LARGEST = 1.3; // a graph of two nodes is not blown up to fill the stage
const SMALLEST = 0.6; // what does not fit into a narrow stage is dragged into sight, rather than too small to read
const PADDING = 20;
const WORDS = { width: 170, height: 44 }; // of an edge, about: their real size would move them with every new rate
const LOOP = 60; // how far a node's call to itself rises above it
const PLACES = [0.5, 0.38, 0.62, 0.28, 0.72, 0.2, 0.8]; // along an edge
const lane = (namespace) => `namespace ${namespace}`; // never the id of a node: those are hashes

/** An element with a class and text or children. */
export function element(tag, name, ...content) {
  const made = document.createElement(tag);
  made.className = name;
  made.append(...content);
  return made;
}

export class Picture {
  #cy;
  #layer = element("div", "labels");
  #labels = new Map();
  #topology = "";
  #places = null; // edge id -> where along it its words stand; null until they have to be found

  /**
   * @param {HTMLElement} stage where it is drawn
   * @param {(edge: string) => void} pick called with an edge's id when it is clicked, with "" for anything else
   */
  constructor(stage, pick) {
    this.#cy = cytoscape({
      container: stage, autoungrabify: true, boxSelectionEnabled: false, userZoomingEnabled: false,
      minZoom: 0.2, maxZoom: 2.5, style: style(),
    });
    this.#layer.setAttribute("aria-hidden", "true");
    stage.append(this.#layer);
    this.#cy.on("render", () => this.#place());
    this.#cy.on("tap", ({ target }) => pick(target.isEdge?.() ? target.id() : ""));
    new ResizeObserver(() => this.fit()).observe(stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#cy.style(style()));
  }

  /** What is really drawn: the ids of Kiali's nodes and edges; the lanes around them are ours. */
  get drawn() {
    const ids = (elements) => elements.map((drawn) => drawn.id());
    return { nodes: ids(this.#cy.nodes(":childless")), edges: ids(this.#cy.edges()) };
  }

  /** Show a graph; what is there already stays where it is while nobody comes or goes. */
  show({ nodes, edges }) {
    const topology = JSON.stringify([nodes, edges].map((list) => list.map(({ id }) => id).sort()));
    this.#cy.batch(() => {
      if (topology !== this.#topology) this.#exchange(nodes, edges);
      for (const edge of edges) this.#update(edge.id, edge, edgeLabel(edge));
      for (const node of nodes) this.#update(node.id, node, nodeLabel(node));
    });
    if (topology !== this.#topology) this.#arrange(nodes, edges);
    this.#topology = topology;
  }

  /** Stress one edge, or none for "". */
  pick(edge) {
    this.#cy.elements().removeClass("picked");
    this.#cy.getElementById(edge).addClass("picked");
    for (const [id, label] of this.#labels) label.classList.toggle("picked", id === edge);
  }

  zoom(factor) {
    const middle = { x: this.#cy.width() / 2, y: this.#cy.height() / 2 };
    this.#cy.zoom({ level: this.#cy.zoom() * factor, renderedPosition: middle });
  }

  fit() {
    this.#cy.resize();
    this.#cy.fit(undefined, PADDING);
    if (this.#cy.zoom() > LARGEST) this.#cy.zoom(LARGEST);
    this.#cy.center();
    if (this.#cy.zoom() >= SMALLEST || this.#cy.elements().empty()) return;
    this.#cy.zoom(SMALLEST);
    this.#cy.center();
    // The traffic begins at the left, and the first lane's name stands at the top.
    const { x1, y1 } = this.#cy.elements().renderedBoundingBox();
    this.#cy.panBy({ x: Math.max(0, PADDING - x1), y: Math.max(0, PADDING - y1) });
  }

  /** Remove who has gone, add who has come. */
  #exchange(nodes, edges) {
    const wanted = new Set([...nodes, ...edges].map(({ id }) => id));
    this.#cy.elements().not(".lane").filter((old) => !wanted.has(old.id())).remove();
    this.#cy.nodes(".lane").filter((old) => old.isChildless()).remove();
    for (const { namespace } of nodes) this.#add({ id: lane(namespace) }, "lane", namespace);
    for (const { id, namespace, shape } of nodes) this.#add({ id, parent: lane(namespace) }, shape);
    for (const { id, source, target } of edges) this.#add({ id, source, target }, "edge");
    for (const [id, label] of this.#labels) {
      if (this.#cy.getElementById(id).nonempty()) continue;
      label.remove();
      this.#labels.delete(id);
    }
  }

  #add(data, kind, ...words) {
    if (this.#cy.getElementById(data.id).nonempty()) return;
    this.#cy.add({ data, classes: kind });
    const label = element("div", `label ${kind}`, ...words);
    label.dataset.id = data.id;
    this.#labels.set(data.id, label);
    this.#layer.append(label);
  }

  #update(id, { source, errors, protocol, shape }, words) {
    this.#labels.get(id).replaceChildren(...words);
    const drawn = this.#cy.getElementById(id);
    if (source === undefined) drawn.classes(shape);
    else drawn.classes(["edge", protocol, errors > 0 ? "failed" : "", errors >= 99.95 ? "refused" : ""].join(" "));
  }

  #arrange(nodes, edges) {
    const sized = nodes.map((node) => {
      const { offsetWidth: width, offsetHeight: height } = this.#labels.get(node.id);
      this.#cy.getElementById(node.id).data({ width, height });
      return { ...node, width, height };
    });
    const { positions, routes } = arrange(sized, edges);
    for (const [id, position] of positions) this.#cy.getElementById(id).position(position);
    for (const [id, { bow, leave, enter }] of routes) {
      this.#cy.getElementById(id).data({ bow, leave: `50% ${leave}px`, enter: `-50% ${enter}px` });
    }
    this.#places = null;
    this.fit();
  }

  /** Words go where Cytoscape has drawn what they belong to. */
  #place() {
    this.#places ??= places(this.#cy);
    const { x, y } = this.#cy.pan();
    this.#layer.style.transform = `translate(${x}px, ${y}px) scale(${this.#cy.zoom()})`;
    for (const [id, label] of this.#labels) {
      const drawn = this.#cy.getElementById(id);
      let point = drawn.isParent() ? corner(drawn) : drawn.position();
      if (drawn.isEdge()) point = along(drawn, this.#places.get(id));
      label.style.left = `${point.x}px`;
      label.style.top = `${point.y}px`;
    }
  }
}

/** For each edge the first place along it where its words cover neither a node nor those of another edge. */
function places(cy) {
  const taken = cy.nodes(":childless").map((node) => (
    { ...node.position(), width: node.width(), height: node.height() }
  ));
  const found = new Map();
  for (const edge of cy.edges().sort((one, other) => compare(one.id(), other.id()))) {
    const boxes = PLACES.map((part) => ({ part, box: { ...along(edge, part), ...WORDS } }));
    const { part, box } = boxes.find(({ box }) => !taken.some((other) => overlap(box, other))) ?? boxes[0];
    found.set(edge.id(), part);
    taken.push(box);
  }
  return found;
}

function overlap(one, other) {
  return Math.abs(one.x - other.x) * 2 < one.width + other.width &&
    Math.abs(one.y - other.y) * 2 < one.height + other.height;
}

/** A point along an edge: its curve is a quadratic one; a loop's is above its node. */
function along(edge, part) {
  if (edge.isLoop()) return { x: edge.source().position("x"), y: edge.source().position("y") - LOOP };
  const [control] = edge.controlPoints();
  const [from, to] = [edge.sourceEndpoint(), edge.targetEndpoint()];
  const bend = (axis) =>
    (1 - part) ** 2 * from[axis] + 2 * part * (1 - part) * control[axis] + part ** 2 * to[axis];
  return { x: bend("x"), y: bend("y") };
}

function corner(drawn) {
  const { x1, y1 } = drawn.boundingBox({ includeLabels: false, includeOverlays: false });
  return { x: x1, y: y1 };
}

function nodeLabel({ name, kind }) {
  return [element("b", "", name), element("small", "", kind)];
}

function edgeLabel({ protocol, rate, responses, errors, mtls }) {
  const first = element("span", "", `${protocol} ${rate}`);
  if (mtls > 0) first.prepend(element("i", mtls > 99 ? "lock" : "lock half"));
  if (errors > 0) {
    const failures = responses.filter(({ code }) => isFailure(code, protocol));
    const codes = failures.map(({ code }) => codeText(code, protocol)).join(", ");
    return [first, element("strong", "", `${number(errors)} % errors: ${codes}`)];
  }
  const good = responses.map(({ code, flags }) => [codeText(code, protocol), ...flags].filter(Boolean).join(" "));
  return good.some(Boolean) ? [first, element("small", "", good.filter(Boolean).join(", "))] : [first];
}

/** A response code in words; TCP has none. */
export function codeText(code, protocol) {
  if (code === "-") return protocol === "TCP" ? "" : "no response";
  return protocol === "gRPC" && code.length < 3 ? `status ${code}` : code;
}

/** Cytoscape's style, in the colours of the style sheet. */
function style() {
  const colours = getComputedStyle(document.documentElement);
  const colour = (name) => colours.getPropertyValue(`--${name}`).trim();
  const line = (name) => ({ "line-color": colour(name), "target-arrow-color": colour(name) });
  const filled = (name) => ({ "background-color": colour(`${name}-fill`), "border-color": colour(name) });
  const card = { shape: "round-rectangle", "corner-radius": 7 };
  const pill = { shape: "round-rectangle", "corner-radius": 40 };
  const hexagon = { shape: "cut-rectangle", "corner-radius": 24 };
  return [
    { selector: "node", style: { "border-width": 2, ...filled("unknown") } },
    { selector: "[width]", style: { width: "data(width)", height: "data(height)" } },
    { selector: ".unknown", style: { shape: "round-rectangle", "border-style": "dashed" } },
    { selector: ".workload, .app, .aggregate", style: { ...card, ...filled("workload") } },
    { selector: ".service", style: { ...pill, ...filled("service") } },
    { selector: ".waypoint", style: { ...hexagon, ...filled("waypoint") } },
    {
      selector: ".lane",
      style: {
        shape: "round-rectangle", "corner-radius": 12, padding: 34, "border-width": 1, events: "no",
        "background-color": colour("lane"), "background-opacity": 1, "border-color": colour("rule"),
      },
    },
    {
      selector: "edge",
      style: {
        width: 3, "curve-style": "unbundled-bezier", "arrow-scale": 1.2,
        "target-arrow-shape": "triangle", ...line("http"),
      },
    },
    {
      selector: "[bow]",
      style: {
        "control-point-distances": "data(bow)", "source-endpoint": "data(leave)", "target-endpoint": "data(enter)",
      },
    },
    {
      selector: ":loop",
      style: { "curve-style": "bezier", "loop-direction": "0deg", "control-point-step-size": LOOP },
    },
    { selector: ".TCP", style: { "line-style": "dashed", "line-dash-pattern": [9, 6], ...line("tcp") } },
    { selector: ".failed", style: { width: 4, ...line("failed") } },
    { selector: ".refused", style: { "target-arrow-shape": "tee" } },
    {
      selector: ".picked",
      style: { "underlay-color": colour("focus"), "underlay-opacity": 0.35, "underlay-padding": 7 },
    },
  ];
}
