// The cluster at a glance: what is wrong, how much it does, who owns what.

import { call } from "../api.js";
import { bytes, capital, card, count, empty, h, meter, percent, problem, prose, rate, span, svg, table, title, took } from "../dom.js";
import { follow, live } from "../live.js";
import { ring } from "../ring.js";

export function mount(root) {
  const findings = h("div", { class: "stack", "aria-live": "polite" });
  const tiles = h("div", { class: "tiles" });
  const picture = card("The ring", "who owns which keys");
  const circle = h("div", {});
  picture.append(circle);
  const members = card("Nodes", "");
  const rows = h("div", {});
  members.append(rows);
  const spaces = card("Namespaces", "by reads");
  const lines = h("div", {});
  spaces.append(lines);
  root.append(title("Overview", ""), h("div", { class: "stack" }, findings, tiles, h("div", { class: "glance" }, picture, h("div", { class: "stack" }, members, spaces))));
  let shape = null, asking = null, said = "";

  async function draw(last) {
    if (shape?.epoch !== last.epoch && asking !== last.epoch) {
      asking = last.epoch;
      try { shape = await call("ring"); } catch { asking = null; return; }
    }
    if (shape) circle.replaceChildren(ring(shape, last.members));
  }

  return follow(() => {
    const { last, trouble } = live;
    if (trouble) findings.replaceChildren(problem(trouble));
    if (!last) {
      if (!trouble) rows.replaceChildren(empty("Asking the nodes", "The first numbers are there in a few seconds."));
      return;
    }
    const text = JSON.stringify([trouble, last.findings]);
    if (text !== said) findings.replaceChildren(...(trouble ? [problem(trouble)] : []), ...found(last.findings));
    said = text;
    tiles.replaceChildren(...numbers(last));
    rows.replaceChildren(nodes(last));
    lines.replaceChildren(last.total ? namespaces(last) : empty("No rates yet", "They come with the second look."));
    draw(last);
  });
}

export function found(findings) {
  if (!findings.length) return [h("p", { class: "well" }, "All is well: the checks have nothing to report.")];
  return findings.map((each) => h("article", { class: "finding", "data-severity": each.severity },
    h("span", { class: "severity" }, each.severity),
    h("strong", {}, capital(each.where ? `${each.what}: ${each.where}` : each.what)),
    h("p", { class: "muted" }, each.evidence), h("p", {}, prose(each.remedy))));
}

function numbers(last) {
  const total = last.total, get = last.latency.get;
  const hits = total ? total.l1_hits + total.l2_hits : 0, reads = total ? hits + total.misses : 0;
  const known = last.members.filter((each) => each.answers);
  const used = known.reduce((sum, each) => sum + each.used_bytes, 0), most = known.reduce((sum, each) => sum + each.max_bytes, 0);
  const past = (value) => live.pictures.map((each) => value(each.total, each)).slice(-90);
  return [
    tile("Reads", total ? rate(reads) : "–", "/s", total ? `${rate(total.misses)} misses/s` : "", past((t) => t.l1_hits + t.l2_hits + t.misses)),
    tile("Hit ratio", reads ? percent(hits / reads) : "–", "", reads ? `${percent(total.l1_hits / reads, 0)} from memory` : "no reads", past((t) => (t.l1_hits + t.l2_hits) / (t.l1_hits + t.l2_hits + t.misses || 1))),
    tile("Writes", total ? rate(total.sets + total.deletes) : "–", "/s", total ? `${rate(total.invalidations)} invalidations/s` : "", past((t) => t.sets + t.deletes)),
    tile("Get, p99", took(get?.p99_s), "", get ? `p50 ${took(get.p50_s)}` : reads ? "not measured" : "no reads", past((t, each) => each.latency.get?.p99_s || 0)),
    tile("Memory", bytes(used), "", most ? `${percent(used / most, 0)} of ${bytes(most)}` : "", past((t) => t.used_bytes)),
    tile("Nodes", `${last.nodes_up}`, `of ${last.members.length}`, `view ${last.epoch}`, past((t, each) => each.nodes_up)),
  ];
}

function tile(label, value, unit, note, points) {
  return h("div", { class: "tile" }, h("div", { class: "label" }, label), h("div", { class: "value" }, value, unit ? h("small", {}, unit) : null), h("div", { class: "note" }, note), spark(points));
}

function spark(points) {
  const top = Math.max(...points, 1e-9), step = 100 / Math.max(points.length - 1, 1);
  const line = points.map((each, at) => `${at ? "L" : "M"}${(at * step).toFixed(2)} ${(25 - (each / top) * 23).toFixed(2)}`).join("");
  const picture = svg("svg", { class: "spark", viewBox: "0 0 100 26", preserveAspectRatio: "none", "aria-hidden": "true" });
  if (points.length > 1) picture.append(svg("path", { class: "area", d: `${line}L100 26L0 26Z` }), svg("path", { d: line }));
  return picture;
}

const L2 = { closed: ["in use", "good"], off: ["none", ""], open: ["away", "bad"], half_open: ["being tried", "warn"], catching_up: ["catching up", "warn"] };

function nodes(last) {
  const state = (each) => {
    if (!each.answers) return h("span", { class: "tag bad" }, "no answer");
    if (each.links_down.length) return h("span", { class: "tag bad" }, `does not hear ${each.links_down.join(", ")}`);
    if (each.epoch !== last.epoch) return h("span", { class: "tag warn" }, `view ${each.epoch}`);
    return h("span", { class: "tag good" }, each.links ? `up, ${each.links} ${each.links === 1 ? "link" : "links"}` : "up, alone");
  };
  const known = (each, show) => (each.answers ? show(each) : "–");
  const l2 = (each) => { const [text, kind] = L2[each.l2_state] || [each.l2_state, ""]; return h("span", { class: `tag ${kind}` }, text); };
  const colour = (each) => h("span", { class: `chip c${(last.members.indexOf(each) % 8) + 1}`, "aria-hidden": "true" });
  const name = (each) => h("span", {}, colour(each), " ", h("strong", {}, each.id), h("span", { class: "sub" }, each.address));
  return table("Nodes of the cluster", [
    ["node", name, "head"], ["state", state],
    ["reads/s", (each) => (each.reads === undefined ? "–" : rate(each.reads)), "n"],
    ["hits", (each) => (each.reads ? percent(each.hits / each.reads) : "–"), "n"],
    ["memory", (each) => known(each, () => [meter(each.used_bytes / each.max_bytes, `${percent(each.used_bytes / each.max_bytes, 0)} of the memory`), h("span", { class: "sub" }, `${bytes(each.used_bytes)} of ${bytes(each.max_bytes)}`)]), "n"],
    ["keys", (each) => known(each, () => count(each.entries)), "n"],
    ["clients", (each) => known(each, () => count(each.sessions)), "n"],
    ["L2", (each) => known(each, l2)],
    ["up for", (each) => known(each, () => span(each.uptime_s)), "n"],
  ], last.members);
}

function namespaces(last) {
  const reads = ([, each]) => each.l1_hits + each.l2_hits + each.misses;
  return table("Namespaces in use", [
    ["namespace", ([name]) => name, "head"],
    ["reads/s", (each) => rate(reads(each)), "n"],
    ["hits", (each) => (reads(each) ? percent((each[1].l1_hits + each[1].l2_hits) / reads(each)) : "–"), "n"],
    ["writes/s", ([, each]) => rate(each.sets + each.deletes), "n"],
    ["loads/s", ([, each]) => rate(each.loads), "n"],
    ["evicted/s", ([, each]) => rate(each.evictions), "n"],
    ["keys", ([, each]) => count(each.entries), "n"],
    ["memory", ([, each]) => bytes(each.used_bytes), "n"],
  ], Object.entries(last.namespaces));
}
