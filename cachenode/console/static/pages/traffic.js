// Curves: how well the cache works, how much it does, how long it takes; of all namespaces or of one.

import { bytes, empty, field, h, percent, rate, title, took } from "../dom.js";
import { chart } from "../charts.js";
import { follow, live } from "../live.js";

const POWERS = Array.from({ length: 40 }, (_, at) => 2 ** at);

export function mount(root) {
  const choice = h("select", { id: "of" });
  const of = (picture) => (choice.value ? picture.namespaces[choice.value] : picture.total);
  const number = (name) => (picture) => of(picture)?.[name];
  const reads = (space) => space.l1_hits + space.l2_hits + space.misses;
  const part = (of_what) => (picture) => { const space = of(picture); return space && reads(space) ? of_what(space) / reads(space) : null; };
  const quantile = (operation, name) => (picture) => picture.latency[operation]?.[name] ?? null;
  const charts = [
    chart({ heading: "Hit ratio", note: "of reads that reached a node", top: 1, show: (value) => percent(value, 0), series: [
      { label: "memory or L2", colour: "--s2", value: part((space) => space.l1_hits + space.l2_hits), fill: true },
      { label: "memory (L1)", colour: "--s1", value: part((space) => space.l1_hits) }] }),
    chart({ heading: "Requests", note: "keys a second", show: rate, series: [
      { label: "reads", colour: "--s1", value: (picture) => (of(picture) ? reads(of(picture)) : null), fill: true },
      { label: "writes", colour: "--s3", value: (picture) => (of(picture) ? of(picture).sets + of(picture).deletes : null) },
      { label: "misses", colour: "--s4", value: number("misses") }] }),
    chart({ heading: "Latency", note: "inside the nodes, all namespaces", show: took, series: [
      { label: "get p50", colour: "--s1", value: quantile("get", "p50_s") },
      { label: "get p99", colour: "--s7", value: quantile("get", "p99_s") },
      { label: "set p50", colour: "--s3", value: quantile("set", "p50_s") },
      { label: "set p99", colour: "--s8", value: quantile("set", "p99_s") }] }),
    chart({ heading: "Memory", note: "entries with their bookkeeping", show: bytes, steps: POWERS, series: [
      { label: "used", colour: "--s6", value: number("used_bytes"), fill: true }] }),
    chart({ heading: "Evictions and expirations", note: "entries a second", show: rate, series: [
      { label: "evicted", colour: "--s3", value: number("evictions") },
      { label: "expired", colour: "--s5", value: number("expirations") }] }),
    chart({ heading: "Invalidations and loads", note: "a second", show: rate, series: [
      { label: "invalidated", colour: "--s4", value: number("invalidations") },
      { label: "loads", colour: "--s7", value: number("loads") }] }),
  ];
  const grid = h("div", { class: "charts" }, charts.map((each) => each.element));
  const waiting = empty("Collecting", "Curves begin with the second look, and keep the last ten minutes.");
  const note = h("p", { class: "muted small" });
  root.append(title("Traffic", "", field("Namespace", choice, "short")), h("div", { class: "stack" }, waiting, note, grid));
  let names = null;

  function renew() {
    const found = Object.keys(live.last?.namespaces || {}).sort();
    if (names !== found.join("\n")) {
      const chosen = choice.value;
      choice.replaceChildren(h("option", { value: "" }, "all"), ...found.map((name) => h("option", { value: name, selected: name === chosen }, name)));
      names = found.join("\n");
    }
    waiting.hidden = live.pictures.length > 1;
    grid.hidden = !waiting.hidden;
    note.hidden = !live.last?.more_namespaces;
    note.textContent = `${live.last?.more_namespaces} more namespaces are in the sums; the 20 with most reads have curves of their own.`;
    if (!grid.hidden) for (const each of charts) each.update(live.pictures);
  }

  choice.addEventListener("change", renew);
  const unfollow = follow(renew);
  return () => { unfollow(); for (const each of charts) each.end(); };
}
