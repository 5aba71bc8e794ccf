// Write-behind: what waits for origins, and what was given up.

import { call } from "../api.js";
import { confirm } from "../dialogs.js";
import { bytes, card, count, empty, h, meter, percent, problem, silentNote, span, table, title, toast } from "../dom.js";
import { mayAdmin } from "../session.js";

export function mount(root) {
  const queues = h("div", {}, h("p", { class: "muted" }, "Asking the nodes…"));
  const letters = h("div", { class: "stack" });
  let timer = 0, over = false, known = "";

  async function show() {
    clearTimeout(timer);
    try {
      const found = await call("queues");
      if (over) return;
      queues.replaceChildren(...[silentNote(found.silent), found.queues.length ? backlog(found.queues) : empty("No namespace writes behind", "`cachenode docs write-behind` says when to use it, and how.")].filter(Boolean));
      const dead = JSON.stringify(found.queues.map((queue) => [queue.namespace, queue.dead_letters]));
      if (dead !== known) {
        known = dead;
        letters.replaceChildren(...found.queues.filter((queue) => queue.dead_letters).map((queue) => deadLetters(queue, show)));
      }
    } catch (error) {
      queues.replaceChildren(problem(error));
    }
    if (!over) timer = setTimeout(show, 3000);
  }

  root.append(title("Write-behind", "Writes that are acknowledged and wait for their origin, and those that the origin has refused."), h("div", { class: "stack" }, card("Queues", "one for each namespace, shared by all nodes", queues), letters));
  show();
  return () => { over = true; clearTimeout(timer); };
}

function backlog(queues) {
  return table("Queues", [
    ["namespace", (queue) => queue.namespace, "head"],
    ["waiting", (queue) => [meter((queue.waiting + queue.dead_letters) / queue.max_backlog, `${percent((queue.waiting + queue.dead_letters) / queue.max_backlog)} of what may wait`), h("span", { class: "sub" }, `${count(queue.waiting)} of ${count(queue.max_backlog)} keys`)]],
    ["oldest", (queue) => (queue.waiting ? span(queue.oldest_s) : "–"), "n"],
    ["dead letters", (queue) => (queue.dead_letters ? h("span", { class: "tag bad" }, count(queue.dead_letters)) : "0"), "n"],
    ["brought", (queue) => count(queue.applied), "n"], ["coalesced", (queue) => count(queue.coalesced), "n"], ["tried again", (queue) => count(queue.retries), "n"],
  ], queues);
}

function deadLetters(queue, renew) {
  const rows = h("div", {}, h("p", { class: "muted" }, "Asking…"));
  const name = queue.namespace;

  // The button that had the focus goes with its row: whoever has no mouse goes on at the top of the page.
  const settled = () => renew().then(() => { if (document.activeElement === document.body) document.getElementById("main").focus(); });
  const writes = (number) => `${count(number)} ${number === 1 ? "write" : "writes"}`;
  const act = (verb, what, body) => confirm(verb === "replay"
    ? { heading: "Queue again?", target: what, effect: "The origin is asked once more. What was cached of the keys meanwhile is invalidated.", button: "Queue again", act: async () => { const done = await call("replay", { namespace: name, ...body }); toast(`Queued ${writes(done.queued)} again.`); settled(); } }
    : { heading: "Drop for ever?", target: what, effect: "What is dropped never reaches the origin. This cannot be taken back.", button: "Drop", act: async () => { const done = await call("drop", { namespace: name, ...body }); toast(`Dropped ${writes(done.dropped)}.`); settled(); } });

  async function show() {
    try {
      const found = await call("dead_letters", { namespace: name, limit: 50 });
      const actions = (letter) => (mayAdmin() ? [h("button", { type: "button", class: "slim", onclick: () => act("replay", letter.key, { ids: [letter.id] }), "aria-label": `Queue ${letter.key} again` }, "Queue again…"), h("button", { type: "button", class: "slim", onclick: () => act("drop", letter.key, { ids: [letter.id] }), "aria-label": `Drop ${letter.key}` }, "Drop…")] : null);
      rows.replaceChildren(table("Dead letters", [
        ["key", (letter) => h("span", { class: "key" }, letter.key), "head"], ["write", (letter) => letter.operation], ["size", (letter) => bytes(letter.size), "n"], ["tried", (letter) => count(letter.attempts), "n"], ["given up", (letter) => `${span(letter.age_s)} ago`, "n"], ["why", (letter) => letter.reason], ["", actions, "acts"],
      ], found.letters), found.more ? h("p", { class: "muted small" }, "The first 50 are shown.") : "");
    } catch (error) {
      rows.replaceChildren(problem(error));
    }
  }

  show();
  const all = queue.dead_letters === 1 ? `the dead letter of ${name}` : `all ${count(queue.dead_letters)} dead letters of ${name}`;
  return card(`Dead letters of ${name}`, "without their values", mayAdmin() ? h("div", { class: "form" }, h("button", { type: "button", onclick: () => act("replay", all, { all: true }) }, "Queue all again…"), h("button", { type: "button", onclick: () => act("drop", all, { all: true }) }, "Drop all…")) : null, rows);
}
