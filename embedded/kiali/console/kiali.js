// What the page asks of Kiali's API (v1.89.0, routing/routes.go), and what the answers say in words and units.

const PATIENCE_MS = 20000;
// Only the appenders whose findings are shown: each one costs Kiali queries.
const GRAPH = {
  graphType: "workload",
  injectServiceNodes: "true",
  appenders: "deadNode,serviceEntry,meshCheck,securityPolicy,ambient",
  rateTcp: "total",
};
// Rates and their units: graph/protocol.go.
const PROTOCOLS = {
  http: { name: "HTTP", unit: "requests", percentErrors: "httpPercentErr" },
  grpc: { name: "gRPC", unit: "requests", percentErrors: "grpcPercentErr" },
  tcp: { name: "TCP", unit: "bytes", percentErrors: "" },
};

/**
 * GET one path of the API.
 * @param {string} path below `api/`
 * @param {Record<string, string>} parameters of the query
 * @param {AbortSignal} signal ends the request when its answer is no longer wanted
 * @returns {Promise<any>} the JSON of the answer
 * @throws {Error} with a message for the reader, or what the signal was aborted with
 */
async function get(path, parameters, signal) {
  const address = new URL(`api/${path}`, document.baseURI);
  address.search = new URLSearchParams(parameters);
  const patience = AbortSignal.timeout(PATIENCE_MS);
  let answer, text;
  try {
    answer = await fetch(address, { cache: "no-store", signal: AbortSignal.any([signal, patience]) });
    text = await answer.text();
  } catch (error) {
    if (signal.aborted) throw error;
    if (patience.aborted) throw new Error(`Kiali did not answer within ${PATIENCE_MS / 1000} seconds.`);
    throw new Error("Kiali cannot be reached: it has stopped, or the connection to it is closed.");
  }
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    if (answer.ok) throw new Error("Kiali's answer is not JSON: something else answers in its place.");
  }
  if (!answer.ok) throw new Error(refusal(answer.status, content, text));
  return content;
}

/** What an error answer of Kiali (handlers/base.go, graph/util.go) or of the Kubernetes API before it means. */
function refusal(status, content, text) {
  const ofKiali = typeof content === "string" ? content : content?.error;
  const words = ofKiali ?? content?.message ?? text.slice(0, 200);
  if (ofKiali !== undefined && status === 503) return `Kiali gets no answer from Prometheus: ${words}`;
  if (ofKiali !== undefined) return `Kiali answers with status ${status}: ${words}`;
  return `Kiali cannot be reached, status ${status}: ${words}`;
}

/** Seconds between two readings of Prometheus (GET api/config). */
export async function scrapeInterval(signal) {
  return (await get("config", {}, signal)).prometheus?.globalScrapeInterval;
}

/** The namespaces by name, each once: `[{name, isAmbient}]` (GET api/namespaces). */
export async function namespaces(signal) {
  const found = new Map((await get("namespaces", {}, signal)).map((namespace) => [namespace.name, namespace]));
  return [...found.values()].sort((one, other) => compare(one.name, other.name));
}

/**
 * The graph of some namespaces (GET api/namespaces/graph; fields: graph/config/cytoscape/cytoscape.go).
 * @returns {Promise<{time: Date, nodes: object[], edges: object[]}>} see describeNode and describeEdge
 */
export async function graph(names, duration, signal) {
  const answer = await get("namespaces/graph", { namespaces: names.join(","), duration, ...GRAPH }, signal);
  const nodes = new Map(answer.elements.nodes.map(({ data }) => [data.id, describeNode(data)]));
  const edges = answer.elements.edges.map(({ data }) => describeEdge(data, nodes));
  edges.sort((one, other) => compare(one.order, other.order));
  return { time: new Date(answer.timestamp * 1000), nodes: [...nodes.values()], edges };
}

/** Name, kind, shape and what is odd about a node. */
function describeNode(data) {
  const isService = data.nodeType === "service";
  const known = (value) => (value && value !== "unknown" ? value : "");
  let kind = data.nodeType, shape = data.nodeType;
  if (data.isWaypoint) [kind, shape] = [isService ? "waypoint service" : "waypoint", "waypoint"];
  else if (data.isGateway) [kind, shape] = ["gateway", "waypoint"];
  else if (data.isServiceEntry) kind = "service entry";
  const notes = [
    [data.isOutOfMesh, "not in the mesh"], [data.isDead, "no pods"], [data.isInaccessible, "not accessible"],
  ].filter(([holds]) => holds).map(([, words]) => words);
  const name = isService ? data.service : data.workload || data.app || data.aggregate;
  return {
    id: data.id, name: known(name) || "unknown", shape,
    kind: [kind === "unknown" ? "not known to the mesh" : kind, ...notes].join(", "),
    namespace: known(data.namespace) || "outside",
  };
}

/** One edge: protocol, rate, errors, responses and mutual TLS, each as text and, where they decide, as numbers. */
function describeEdge(data, nodes) {
  const traffic = data.traffic ?? {};
  const protocol = PROTOCOLS[traffic.protocol] ?? { name: traffic.protocol || "none", unit: "requests" };
  const from = nodes.get(data.source), to = nodes.get(data.target);
  const errors = Number(traffic.rates?.[protocol.percentErrors] ?? 0);
  return {
    id: data.id, source: data.source, target: data.target, from, to, errors,
    order: [from.namespace, from.name, to.namespace, to.name, to.kind, protocol.name].join(" "),
    protocol: protocol.name,
    rate: rateText(Number(traffic.rates?.[traffic.protocol] ?? 0), protocol.unit),
    responses: responses(traffic.responses ?? {}), mtls: Number(data.isMTLS ?? 0),
  };
}

/** Responses as `[{code, percent, flags}]`, the most frequent first; `-` stands for no code, as in every TCP answer. */
function responses(found) {
  const list = Object.entries(found).map(([code, { flags = {} }]) => ({
    code, percent: Object.values(flags).reduce((sum, value) => sum + Number(value), 0),
    flags: Object.keys(flags).filter((flag) => flag !== "-").sort(),
  }));
  return list.sort((one, other) => other.percent - one.percent || compare(one.code, other.code));
}

/** A number with at most three digits that matter, without rounding large ones. */
export function number(value) {
  return value.toLocaleString("en", value < 100 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 0 });
}

function rateText(rate, unit) {
  if (unit !== "bytes") return `${number(rate)} ${unit}/s`;
  const step = Math.max(0, Math.min(3, Math.floor(Math.log10(Math.max(rate, 1)) / 3)));
  return `${number(rate / 1000 ** step)} ${["B", "kB", "MB", "GB"][step]}/s`;
}

/** Whether a response code stands for a failure (graph/protocol.go: IsHTTPErr, IsGRPCErr, no response). */
export function isFailure(code, protocol) {
  if (protocol === "TCP") return false;
  return code === "-" || (code.length === 3 ? code >= "400" : code !== "0");
}

/** The order of two names, the same in every browser. */
export function compare(one, other) {
  return one < other ? -1 : Number(one > other);
}
