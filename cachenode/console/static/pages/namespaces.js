// Namespaces: their settings as the nodes have them, and changing one while the cluster serves.

import { call } from "../api.js";
import { confirm } from "../dialogs.js";
import { card, count, empty, field, h, problem, silentNote, table, title, toast } from "../dom.js";
import { mayAdmin } from "../session.js";

export function mount(root) {
  const list = h("div", {}, h("p", { class: "muted" }, "Asking the nodes…"));
  const choice = h("select", {});
  const only = h("select", {}, h("option", { value: "" }, "all settings"), h("option", { value: "set" }, "what is not a default"));
  only.value = "set";
  let found = null;

  function show() {
    const space = found?.namespaces.find((each) => each.name === choice.value);
    if (!space) return;
    const rows = space.settings.filter((each) => !only.value || each.source !== "default");
    const others = space.differing.length ? h("div", { class: "problem" }, h("strong", {}, `${space.differing.join(", ")}: other settings`), h("p", {}, "Set them again: every member is told.")) : null;
    list.replaceChildren(...[silentNote(found.silent), others,
      card(space.name, `${space.configured ? "has a table of its own" : "follows the default namespace"}; ${space.version ? "changed while the cluster runs" : "as configured"}`,
        rows.length ? table(`Settings of ${space.name}`, columns(space), rows) : empty("Only defaults", "Choose “all settings” to see them."))].filter(Boolean));
  }

  const columns = (space) => [
    ["setting", (each) => h("code", {}, each.name), "head"],
    ["value", (each) => h("code", {}, each.value || "–")],
    ["from", (each) => h("span", { class: `tag ${each.source === "live" ? "info" : ""}` }, each.source)],
    ["", (each) => (each.fixed ? h("span", { class: "muted small" }, each.fixed) : mayAdmin() ? edit(space, each) : null), "acts"],
  ];

  function edit(space, each) {
    const change = () => {
      const value = h("input", { value: each.value.replace(/^"(.*)"$/, "$1"), spellcheck: "false", autofocus: true });
      ask(space, each, value, { fields: () => ({ [each.name]: value.value }) });
    };
    return [h("button", { type: "button", class: "slim", onclick: change, "aria-label": `Set ${each.name}` }, "Set…"), each.source === "live" ? [" ", h("button", { type: "button", class: "slim", onclick: () => ask(space, each, null, { reset: [each.name] }), "aria-label": `Reset ${each.name}` }, "Reset…")] : null];
  }

  const ask = (space, each, input, body) => confirm({
    heading: input ? `Set ${each.name}` : `Reset ${each.name}?`,
    target: input ? field(`${each.name} of ${space.name}, now ${each.value || "not set"}`, input) : `${each.name} of ${space.name}, now ${each.value}`,
    effect: `${input ? "Written as in the configuration file; times as 30s, 10m or 1d." : "The configured value applies again."} All nodes check it first; it applies to what is stored from then on.`,
    button: input ? "Set" : "Reset",
    act: async () => {
      const done = await call("set_namespace", { namespace: space.name, fields: body.fields?.() || {}, reset: body.reset || [] });
      toast(done.lagging.length ? `Set, but ${done.lagging.join(", ")} did not follow.` : done.kept ? "Set at every node; nodes that start later follow." : "Set at every node that runs.");
      await load();
    },
  });

  async function load() {
    try {
      found = await call("namespaces");
      const chosen = choice.value;
      choice.replaceChildren(...found.namespaces.map((each) => h("option", { value: each.name, selected: each.name === chosen }, each.name)));
      show();
    } catch (error) {
      list.replaceChildren(problem(error));
    }
  }

  choice.addEventListener("change", show);
  only.addEventListener("change", show);
  root.append(title("Namespaces", "The policy of each namespace. Most settings can be changed while the cluster serves.", field("Namespace", choice), field("Show", only)), h("div", { class: "stack" }, list));
  load();
}
