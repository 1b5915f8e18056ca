// Where the nodes go: left to right with the traffic, one lane for each namespace. Only names and who calls whom
// decide, never rates, so a refresh moves nothing.

import { compare } from "./kiali.js";

const COLUMN_GAP = 260; // room for an edge's label
const ROW_GAP = 44;
const PARALLEL_GAP = 34; // more, where two edges run side by side
const LANE_GAP = 96; // a lane's padding on both sides, its name, and air
const PORT_GAP = 13; // between the ends of edges at the same node: their tips stay apart
const BOW = 110; // how far an edge swings that would else run through nodes or along another edge

/**
 * @param {{id, name, namespace, width, height}[]} nodes
 * @param {{id, source, target}[]} all edges
 * @returns {{positions: Map<string, {x, y}>, routes: Map<string, {bow, leave, enter}>}} the middle of each node; how
 *   far each edge swings to its side, and how far below the middle of a node it leaves and enters (not for loops)
 */
export function arrange(nodes, all) {
  const edges = all.filter(({ source, target }) => source !== target);
  const sorted = [...nodes].sort((one, other) => compare(one.name + one.id, other.name + other.id));
  const ranks = rank(sorted, edges);
  const positions = place(sorted, edges, ranks);
  const bows = swing(edges, ranks);
  const leave = ports(edges, "source", "target", positions, bows);
  const enter = ports(edges, "target", "source", positions, bows);
  const route = ({ id }) => [id, { bow: bows.get(id), leave: leave.get(id), enter: enter.get(id) }];
  return { positions, routes: new Map(edges.map(route)) };
}

/** The column of each node: as many steps as the longest way to it; an edge that closes a circle does not count. */
function rank(nodes, edges) {
  const outgoing = new Map(nodes.map(({ id }) => [id, []]));
  const called = new Set();
  for (const { source, target } of edges) {
    outgoing.get(source).push(target);
    called.add(target);
  }
  const state = new Map(), finished = [], forward = [];
  const visit = (id) => {
    state.set(id, "open");
    for (const target of outgoing.get(id)) {
      if (state.get(target) === "open") continue;
      forward.push([id, target]);
      if (!state.has(target)) visit(target);
    }
    state.set(id, "done");
    finished.push(id);
  };
  const roots = [...nodes.filter(({ id }) => !called.has(id)), ...nodes];
  for (const { id } of roots) if (!state.has(id)) visit(id);
  const ranks = new Map(nodes.map(({ id }) => [id, 0]));
  for (const id of finished.reverse()) {
    for (const [source, target] of forward) {
      if (source === id) ranks.set(target, Math.max(ranks.get(target), ranks.get(id) + 1));
    }
  }
  return ranks;
}

/** Edges between the same two nodes go apart; an edge that skips a column goes around it. */
function swing(edges, ranks) {
  const bundles = Map.groupBy(edges, ({ source, target }) => [source, target].sort().join(" "));
  const bows = new Map();
  for (const bundle of bundles.values()) {
    bundle.forEach(({ id, source, target }, index) => {
      const direction = ranks.get(source) < ranks.get(target) ? 1 : -1;
      const around = ranks.get(target) - ranks.get(source) === 1 ? 0 : BOW;
      bows.set(id, around + direction * (index - (bundle.length - 1) / 2) * BOW);
    });
  }
  return bows;
}

/** The ends of the edges at one side of each node, in the order in which the edges come. */
function ports(edges, here, there, positions, bows) {
  const offsets = new Map();
  for (const meeting of Map.groupBy(edges, (edge) => edge[here]).values()) {
    const height = (edge) => positions.get(edge[there]).y + bows.get(edge.id);
    meeting.sort((one, other) => height(one) - height(other));
    const gap = Math.min(PORT_GAP, (2 * PORT_GAP) / meeting.length);
    meeting.forEach(({ id }, index) => offsets.set(id, (index - (meeting.length - 1) / 2) * gap));
  }
  return offsets;
}

function place(nodes, edges, ranks) {
  const columns = Math.max(0, ...ranks.values()) + 1;
  const lanes = [...Map.groupBy(nodes, ({ namespace }) => namespace)].sort(([one], [other]) => compare(one, other));
  const height = Math.max(0, ...nodes.map((node) => node.height));
  const bundles = Map.groupBy(edges, ({ source, target }) => `${source} ${target}`);
  const parallel = Math.max(1, ...[...bundles.values()].map((bundle) => bundle.length));
  const pitch = height + ROW_GAP + PARALLEL_GAP * (parallel - 1);
  const x = centres(nodes, ranks, columns);
  const laneOf = new Map(lanes.flatMap(([, members], index) => members.map(({ id }) => [id, index])));
  const positions = new Map();
  let top = 0;
  for (const [, members] of lanes) {
    const stacks = Map.groupBy(members, ({ id }) => ranks.get(id));
    const rows = Math.max(...[...stacks.values()].map((stack) => stack.length));
    const middle = top + ((rows - 1) * pitch) / 2;
    for (let column = 0; column < columns; column += 1) {
      const stack = stacks.get(column) ?? [];
      const order = new Map(stack.map(({ id }) => [id, callers(id, edges, positions) ?? callees(id, edges, laneOf)]));
      stack.sort((one, other) => order.get(one.id) - order.get(other.id));
      stack.forEach(({ id }, index) => {
        positions.set(id, { x: x[column], y: middle + (index - (stack.length - 1) / 2) * pitch });
      });
    }
    top += (rows - 1) * pitch + height + LANE_GAP;
  }
  return positions;
}

/** The middle of each column. */
function centres(nodes, ranks, columns) {
  const found = [];
  let left = 0;
  for (let column = 0; column < columns; column += 1) {
    const width = Math.max(0, ...nodes.filter(({ id }) => ranks.get(id) === column).map((node) => node.width));
    found.push(left + width / 2);
    left += width + COLUMN_GAP;
  }
  return found;
}

/** How high those who call a node are on average, where that is known: near them it is best drawn. */
function callers(id, edges, positions) {
  return mean(edges.filter(({ source, target }) => target === id && positions.has(source))
    .map(({ source }) => positions.get(source).y));
}

/** How far down the lanes are that a node calls into: who calls out of its lane stands at that side of it. */
function callees(id, edges, laneOf) {
  return mean(edges.filter(({ source }) => source === id).map(({ target }) => laneOf.get(target))) ?? 0;
}

function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : undefined;
}
