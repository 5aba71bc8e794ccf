// Health: what the checks find, and whether caching pays.

import { call } from "../api.js";
import { capital, card, empty, h, percent, problem, prose, rate, silentNote, span, table, title } from "../dom.js";
import { follow, live } from "../live.js";
import { found } from "./overview.js";

export function mount(root) {
  const findings = h("div", { class: "stack", "aria-live": "polite" }, h("p", { class: "muted" }, "Looking…"));
  const advice = h("div", {}, h("p", { class: "muted" }, "Asking the nodes…"));
  root.append(title("Health", "The runbook's questions, asked every two seconds about the last ten, and what the last five minutes advise."),
    h("div", { class: "stack" }, card("Findings", "as cachenode doctor", findings), card("Advice", "as cachenode advise, from what the nodes have counted", advice)));
  let said = "";
  load(advice);
  return follow(() => {
    const text = JSON.stringify([live.trouble, live.last?.findings]);
    if (text === said || (!live.last && !live.trouble)) return;
    said = text;
    findings.replaceChildren(...(live.trouble ? [problem(live.trouble)] : []), ...(live.last ? found(live.last.findings) : []));
  });
}

const CACHES = { true: ["yes", "good"], false: ["no", "warn"], null: ["not known yet", ""] };

async function load(box) {
  try {
    const answer = await call("advise");
    const verdict = (each) => { const [text, kind] = CACHES[each.cache]; return h("span", { class: `tag ${kind}` }, text); };
    const lines = (each) => [...each.reasons, ...each.missing.map((what) => `missing: ${what}`), ...each.notes];
    const rows = answer.namespaces.length
      ? table("Advice by namespace", [
          ["namespace", (each) => each.name, "head"], ["cache it", verdict],
          ["reads/s", (each) => (each.seconds ? rate(each.reads / each.seconds) : "–"), "n"], ["hits", (each) => (each.reads ? percent(each.hits / each.reads) : "–"), "n"],
          ["TTL", (each) => (each.ttl_s === null ? "–" : span(each.ttl_s)), "n"], ["pattern", (each) => each.pattern || "–"],
          ["why", (each) => h("ul", { class: "plain small" }, lines(each).map((line) => h("li", {}, prose(capital(line)))))],
        ], answer.namespaces)
      : empty("No namespace is in use", "Advice comes from the reads of the last five minutes.");
    box.replaceChildren(...[silentNote(answer.silent), rows].filter(Boolean));
  } catch (error) {
    box.replaceChildren(problem(error));
  }
}
