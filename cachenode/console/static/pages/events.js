// Events: the rules, what they would make of an event, and telling one.

import { call } from "../api.js";
import { confirm } from "../dialogs.js";
import { card, count, empty, field, h, problem, silentNote, table, title, toast } from "../dom.js";
import { session } from "../session.js";

export function mount(root) {
  const rules = h("div", {}, h("p", { class: "muted" }, "Asking the nodes…"));
  const result = h("div", { "aria-live": "polite" });
  const names = h("datalist", { id: "events" });
  const name = h("input", { list: "events", required: true, spellcheck: "false", autocapitalize: "off", placeholder: "user.deleted" });
  const payload = h("textarea", { spellcheck: "false", rows: 4 }, '{"userId": 7}');
  const form = h("form", { class: "stack tight" }, field("Event", name), field("Fields (JSON)", payload),
    h("div", { class: "form" }, h("button", { type: "submit", class: "main" }, "Test"), session.may_change ? h("button", { type: "button", id: "publish", onclick: () => publish() }, "Publish…") : null));
  const body = () => ({ name: name.value, payload: payload.value });

  async function test() {
    try {
      const found = await call("test_event", body());
      result.replaceChildren(found.known ? outcome("Would invalidate", found) : empty("No rule names this event", "Nothing would be invalidated. The rules are listed below."));
      return found;
    } catch (error) {
      result.replaceChildren(problem(error));
      return null;
    }
  }

  async function publish() {
    if (!form.reportValidity()) return;
    const found = await test();
    if (!found) return;
    const things = found.invalidations.flatMap((place) => place.things.map((each) => `${each.kind} ${each.text} in ${place.namespace}`));
    confirm({
      heading: `Publish ${name.value}?`,
      target: things.length ? h("ul", { class: "plain" }, things.map((each) => h("li", {}, each))) : "No rule of this node names it.",
      effect: "What is listed becomes untrue on all nodes, as if the event had happened.",
      button: "Publish",
      act: async () => {
        const done = await call("publish", body());
        result.replaceChildren(outcome("Invalidated", done));
        toast(`Published: ${count(done.found)} of the keys had a value.`);
      },
    });
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); test(); });
  root.append(title("Events", "What the rules make untrue when something happens. A test sends nothing."), names,
    h("div", { class: "stack" }, h("div", { class: "halves" }, card("Try an event", "against the rules of this node", form), card("What would go", "", result)), card("Rules", "[[event]] in the configuration", rules)));
  result.append(empty("Nothing tried yet", "Name an event and its fields, and test it."));
  load(rules, names);
}

function outcome(did, found) {
  const rows = found.invalidations.flatMap((place) => place.things.map((each) => ({ ...place, ...each })));
  return h("div", {}, h("p", {}, `${did} ${count(rows.length)} ${rows.length === 1 ? "thing" : "things"}:`),
    table(did, [["what", (row) => h("span", { class: "tag" }, row.kind)], ["text", (row) => h("span", { class: "key" }, row.text), "head"], ["namespace", (row) => row.namespace], ["mode", (row) => row.mode]], rows));
}

async function load(box, names) {
  try {
    const found = await call("rules");
    names.replaceChildren(...[...new Set(found.rules.map((rule) => rule.name))].map((each) => h("option", { value: each })));
    const differing = found.differing.length ? h("div", { class: "problem" }, h("strong", {}, `${found.differing.join(", ")}: other rules`), h("p", {}, "Give all nodes the same.")) : null;
    const rules = found.rules.length
      ? table("Rules of events", [["event", (rule) => rule.name, "head"], ["makes untrue", (rule) => h("span", { class: "key" }, [...rule.invalidates, ...rule.tags.map((tag) => `tag ${tag}`)].join(", "))], ["namespace", (rule) => rule.namespace], ["mode", (rule) => rule.mode]], found.rules)
      : empty("There are no rules", "`cachenode docs events` shows how they are written.");
    box.replaceChildren(...[silentNote(found.silent), differing, rules].filter(Boolean));
  } catch (error) {
    box.replaceChildren(problem(error));
  }
}
