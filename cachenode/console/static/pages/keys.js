// Keys: the hottest and largest, everything that is known about one, and declaring values untrue.

import { call } from "../api.js";
import { confirm } from "../dialogs.js";
import { bytes, card, count, empty, field, h, percent, problem, prose, rate, silentNote, span, table, title, toast } from "../dom.js";
import { live } from "../live.js";
import { session } from "../session.js";

export function mount(root) {
  const names = h("datalist", { id: "namespaces" }, Object.keys(live.last?.namespaces || {}).sort().map((name) => h("option", { value: name })));
  root.append(title("Keys", "Where a key's value is and why a read finds what it finds. Values are never shown."), names, h("div", { class: "stack" }, explorer(), lists(), invalidation()));
}

const namespaceInput = (value = "default") => h("input", { list: "namespaces", value, spellcheck: "false", autocapitalize: "off", required: true });

// One key.

let explain = () => {};

function explorer() {
  const key = h("input", { id: "key", spellcheck: "false", autocapitalize: "off", autocomplete: "off", required: true, placeholder: "user:7" });
  const namespace = namespaceInput();
  const result = h("div", { "aria-live": "polite" });
  const form = h("form", { class: "form" }, field("Key", key, "wide"), field("Namespace", namespace), h("button", { type: "submit", class: "main" }, "Explain"));
  explain = async (asked, scroll) => {
    key.value = asked.key;
    namespace.value = asked.namespace;
    result.replaceChildren(h("p", { class: "muted" }, "Asking every node…"));
    if (scroll) box.scrollIntoView({ block: "start" });
    try {
      result.replaceChildren(explained(await call("explain", { namespace: asked.namespace, ...(asked.key_base64 ? { key_base64: asked.key_base64 } : { key: asked.key }) })));
    } catch (error) {
      result.replaceChildren(problem(error));
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    explain({ key: key.value, namespace: namespace.value || "default" });
  });
  result.append(h("p", { class: "muted small" }, "Name a key, or choose one from the lists below."));
  const box = card("Explore a key", "every node is asked", form, h("div", { class: "answer" }, result));
  return box;
}

function explained(found) {
  const held = found.nodes.flatMap((node) => [node.l1, node.l2]).filter((each) => each && each.version);
  const entry = held[0];
  const tags = [...new Set(held.flatMap((each) => each.tags))].sort();
  const notes = found.notes.filter((each) => !each.startsWith("Tags:"));  // they are shown above
  const again = () => explain(found);
  const ask = () => confirm({
    heading: "Invalidate this key?",
    target: found.key,
    effect: `Its value in namespace ${found.namespace} becomes untrue on all nodes, in L2 and in near caches, ${dependents(found)}. The next read loads it again, or finds nothing.`,
    button: "Invalidate",
    act: async () => {
      const done = await call("invalidate", { kind: "key", namespace: found.namespace, key_base64: found.key_base64 });
      toast(done.found ? "Invalidated: its value is gone everywhere." : "There was no value; what may be on its way is untrue too.");
      again();
    },
  });
  return h("div", { class: "stack tight" },
    silentNote(found.silent),
    h("dl", { class: "facts" },
      h("dt", {}, "Key"), h("dd", { class: "key", id: "explained-key" }, found.key),
      h("dt", {}, "Namespace"), h("dd", {}, found.namespace),
      h("dt", {}, "Owner"), h("dd", {}, `${found.owner} (view ${found.epoch})`),
      h("dt", {}, "Value"), h("dd", {}, entry ? `${bytes(entry.size)}, version ${entry.version}, ${life(entry.ttl_s)}` : "none that anybody has"),
      tags.length ? [h("dt", {}, "Tags"), h("dd", {}, tags.map((tag) => [h("span", { class: "tag" }, tag), " "]))] : null),
    table("What each node knows", [
      ["node", (node) => node.id, "head"],
      ["role", (node) => role(node, found)],
      ["memory (L1)", (node) => (node.answers ? layer(node.l1, node.l1_why) : "–")],
      ["L2", (node) => (node.answers ? layer(node.l2, node.l2_why) : "–")],
      ["near copies", (node) => (node.answers ? count(node.near_holders) : "–"), "n"],
    ], found.nodes),
    notes.length ? h("ul", { class: "plain" }, notes.map((each) => h("li", {}, prose(each)))) : null,
    h("div", { class: "form" }, h("button", { type: "button", onclick: again }, "Look again"), session.may_change ? h("button", { type: "button", id: "invalidate-this", onclick: ask }, "Invalidate…") : null));
}

function dependents(found) {
  const most = found.nodes.reduce((sum, node) => sum + (node.dependents || 0), 0);
  return most ? `and so does what depends on it: ${count(most)} ${most === 1 ? "entry" : "entries"}` : "and nothing is known to depend on it";
}

const life = (seconds) => (seconds === null ? "never expires" : `${span(seconds)} left`);

function role(node, found) {
  const mark = (kind, text) => h("span", { class: `tag ${kind}` }, text);
  if (!node.answers) return mark("bad", "does not answer");
  if (!node.ready) return mark("warn", "not in the view");
  if (node.fenced) return mark("bad", "lease over: serves nothing");
  if (!node.settled) return mark("warn", "owner, not settled yet");
  return node.owner ? mark("good", "owner") : `passes on to ${found.owner}`;
}

function layer(each, why) {
  if (!each || !each.version) return h("span", { class: "muted" }, why || "nothing");
  return h("span", {}, `${bytes(each.size)}, ${life(each.ttl_s)}`, h("span", { class: "sub" }, `version ${each.version}`, why ? `; ${why}` : ""));
}

// The lists.

function lists() {
  const result = h("div", {});
  const namespace = namespaceInput("");
  namespace.required = false;
  namespace.placeholder = "all";
  let kind = "hot";
  const choose = (name, label) => h("button", { type: "button", "aria-pressed": String(name === kind), onclick: () => { kind = name; show(); } }, label);
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "Which keys" }, choose("hot", "Hottest"), choose("big", "Largest"));
  const go = (row) => h("button", { type: "button", class: "slim", onclick: () => explain(row, true), "aria-label": `Explain ${row.key}` }, "Explain");
  const key = (row) => h("span", { class: "key" }, row.key);

  async function show() {
    tabs.querySelectorAll("button").forEach((button, at) => button.setAttribute("aria-pressed", String((at === 0) === (kind === "hot"))));
    result.classList.add("hush");
    try {
      const found = await call(`${kind}_keys`, { namespace: namespace.value, limit: 20 });
      const numbers = kind === "hot"
        ? [["reads/s", (row) => rate(row.reads_per_s), "n"], ["of its node", (row) => percent(row.share), "n"]]
        : [["size", (row) => bytes(row.size), "n"], ["left", (row) => (row.ttl_s === null ? "never expires" : span(row.ttl_s)), "n"]];
      const rows = found.keys.length
        ? table(kind === "hot" ? "The keys that are read most" : "The largest values", [["key", key, "head"], ["namespace", (row) => row.namespace], ["node", (row) => row.node], ...numbers, ["", go, "acts"]], found.keys)
        : kind === "hot" ? empty("No key was read lately", "Reads of the last minute or so count, as their owners see them.") : empty("The nodes hold no entries", "What is only in L2 is not listed here.");
      result.replaceChildren(...[silentNote(found.silent), rows].filter(Boolean));
    } catch (error) {
      result.replaceChildren(problem(error));
    }
    result.classList.remove("hush");
  }

  const form = h("form", { class: "form" }, field("Namespace", namespace), h("button", { type: "submit" }, "Look"));
  form.addEventListener("submit", (event) => { event.preventDefault(); show(); });
  show();
  const box = card("Hot and big keys", "from samples of the last minute; from a walk through memory", h("div", { class: "bar" }, tabs, form), result);
  return box;
}

// Declaring untrue.

const KINDS = {
  key: ["Key", "user:7", (text) => `The value of this key`],
  prefix: ["Prefix", "user:7:", () => "Every value whose key begins like this"],
  pattern: ["Pattern", "user:*:cart", () => "Every value whose key fits this pattern"],
  tag: ["Tag", "eu", () => "Every value under this tag"],
  namespace: ["Whole namespace", "", () => "Every value of the namespace"],
};

function invalidation() {
  if (!session.may_change) return card("Invalidate", "", empty("Read only", session.why_not));
  const kind = h("select", {}, Object.entries(KINDS).map(([name, [label]]) => h("option", { value: name }, label)));
  kind.value = "prefix";
  const text = h("input", { id: "untrue", spellcheck: "false", autocapitalize: "off", autocomplete: "off", required: true });
  const labelled = field("Text", text, "wide");
  const namespace = namespaceInput();
  const mode = h("select", {}, h("option", { value: "" }, "remove"), h("option", { value: "expire" }, "expire: serve stale while it is loaded"));
  const changed = () => { text.placeholder = KINDS[kind.value][1]; labelled.hidden = kind.value === "namespace"; text.required = !labelled.hidden; };
  kind.addEventListener("change", changed);
  changed();
  const form = h("form", { class: "form" }, field("What", kind, "short"), labelled, field("Namespace", namespace), field("Mode", mode), h("button", { type: "submit" }, "Invalidate…"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const [label, , who] = KINDS[kind.value];
    const body = { kind: kind.value, namespace: namespace.value || "default", expire: mode.value === "expire", [kind.value === "key" ? "key" : "text"]: text.value };
    confirm({
      heading: `Invalidate by ${label.toLowerCase()}?`,
      target: kind.value === "namespace" ? body.namespace : text.value,
      effect: `${who(text.value)} in namespace ${body.namespace} becomes untrue on all nodes, in L2 and in near caches${body.expire ? "; where the namespace has stale_s it is served marked stale until it is loaded again" : ""}. This cannot be taken back.`,
      button: "Invalidate",
      act: async () => {
        const done = await call("invalidate", body);
        toast(kind.value === "key" ? (done.found ? "Invalidated: its value is gone everywhere." : "There was no value.") : "Invalidated: nobody serves any of it any more.");
      },
    });
  });
  return card("Invalidate", "declares values untrue everywhere", form);
}
