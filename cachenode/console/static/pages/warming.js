// Warming: how far jobs are, and beginning or ending one.

import { call } from "../api.js";
import { confirm } from "../dialogs.js";
import { card, count, empty, field, h, meter, problem, silentNote, table, title, toast } from "../dom.js";
import { mayAdmin, session } from "../session.js";

const STATES = { running: "info", done: "good", failed: "bad", cancelled: "warn", stopped: "warn" };

export function mount(root) {
  const jobs = h("div", {}, h("p", { class: "muted" }, "Asking the nodes…"));
  let timer = 0, over = false;

  async function show() {
    clearTimeout(timer);
    let pause = 5000;
    try {
      const found = await call("warming");
      if (over) return;
      jobs.replaceChildren(...[silentNote(found.silent), found.jobs.length ? list(found.jobs, show) : empty("No job has run", "Begin one, or set [[warm]] or warm_top in the configuration: `cachenode docs warming`.")].filter(Boolean));
      if (found.jobs.some((job) => job.state === "running")) pause = 1000;
    } catch (error) {
      jobs.replaceChildren(problem(error));
    }
    if (!over) timer = setTimeout(show, pause);
  }

  root.append(title("Warming", "Loads keys before anybody asks for them. One job of a namespace runs at a time; it goes on when nobody looks."),
    h("div", { class: "stack" }, mayAdmin() ? begin(show) : null, card("Jobs", "the last of each namespace, on each node", jobs)));
  show();
  return () => { over = true; clearTimeout(timer); };
}

function begin(show) {
  const namespace = h("input", { value: "default", required: true, spellcheck: "false", autocapitalize: "off" });
  const source = h("select", {}, h("option", { value: "origin" }, "all keys that the origin lists"), h("option", { value: "hot" }, "the keys read most"));
  const top = h("input", { type: "number", min: 1, max: 1000000, value: 1000 });
  const speed = h("input", { type: "number", min: 1, max: 1000000, value: 500, required: true });
  const labelled = field("How many", top, "short");
  const changed = () => { labelled.hidden = source.value !== "hot"; };
  source.addEventListener("change", changed);
  changed();
  const wrong = h("div", { "aria-live": "polite" });
  const form = h("form", { class: "form" }, field("Namespace", namespace), field("Which keys", source, "wide"), labelled, field("Keys a second", speed, "short"), h("button", { type: "submit", class: "main" }, "Begin"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    wrong.replaceChildren();
    try {
      await call("warm_start", { namespace: namespace.value, source: source.value, top: Number(top.value), rate_per_s: Number(speed.value) });
      toast(`Warming ${namespace.value}.`);
      show();
    } catch (error) {
      wrong.replaceChildren(problem(error));
    }
  });
  return card("Begin a job", "of a namespace with an origin", form, wrong);
}

function list(jobs, show) {
  const stop = (job) => confirm({
    heading: "End this job?", target: `${job.namespace}, ${count(job.done)} keys done`, effect: "What it has loaded stays. It can be begun again.", button: "End it",
    act: async () => { await call("warm_cancel", { namespace: job.namespace }); toast(`The job of ${job.namespace} ends.`); show(); },
  });
  return table("Warming jobs", [
    ["namespace", (job) => job.namespace, "head"],
    ["state", (job) => [h("span", { class: `tag ${STATES[job.state] || ""}` }, job.state), job.error ? h("span", { class: "sub" }, job.error) : null]],
    ["progress", (job) => [job.total ? meter(job.done / job.total, `${count(job.done)} of ${count(job.total)} keys`, { wanted: true }) : null, h("span", { class: "sub" }, `${count(job.done)}${job.total ? ` of ${count(job.total)}` : " keys"}`)]],
    ["loaded", (job) => count(job.loaded), "n"], ["were there", (job) => count(job.fresh), "n"], ["absent", (job) => count(job.absent), "n"], ["failed", (job) => count(job.failed), "n"],
    ["keys from", (job) => job.source], ["node", (job) => job.node_id],
    ["", (job) => (job.state === "running" && session.may_change ? h("button", { type: "button", class: "slim", onclick: () => stop(job) }, "End…") : null), "acts"],
  ], jobs);
}
