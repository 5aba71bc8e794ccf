// The frame: sections, who is signed in, what colour. Each section is a module with `mount(root)`, which returns its end.

import { call, token } from "./api.js";
import { byId, h, problem, say } from "./dom.js";
import { signIn } from "./dialogs.js";
import { follow, live, restart, stop } from "./live.js";
import { session } from "./session.js";
import * as events from "./pages/events.js";
import * as health from "./pages/health.js";
import * as keys from "./pages/keys.js";
import * as namespaces from "./pages/namespaces.js";
import * as overview from "./pages/overview.js";
import * as queues from "./pages/queues.js";
import * as traffic from "./pages/traffic.js";
import * as warming from "./pages/warming.js";

const SECTIONS = {
  overview: ["Overview", overview],
  traffic: ["Traffic", traffic],
  health: ["Health", health],
  keys: ["Keys", keys],
  events: ["Events", events],
  warming: ["Warming", warming],
  queues: ["Write-behind", queues],
  namespaces: ["Namespaces", namespaces],
};
let unmount = () => {};

function show() {
  const name = location.hash.replace(/^#\//, "").split("?")[0];
  const [label, page] = SECTIONS[name] || SECTIONS.overview;
  unmount();
  const main = byId("main");
  main.replaceChildren();
  for (const link of byId("nav").querySelectorAll("a")) {
    const here = link.dataset.name === (SECTIONS[name] ? name : "overview");
    here ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  unmount = page.mount(main) || (() => {});
  openMenu(false);
  say(label);
}

function openMenu(open) {
  byId("nav").classList.toggle("open", open);
  byId("menu").setAttribute("aria-expanded", String(open));
}

function frame() {
  const links = Object.entries(SECTIONS).map(([name, [label]]) => h("li", {}, h("a", { href: `#/${name}`, "data-name": name }, label, name === "health" ? h("span", { class: "count", id: "findings" }) : null)));
  byId("nav").append(h("ul", {}, links));
  byId("menu").addEventListener("click", () => openMenu(!byId("nav").classList.contains("open")));
  byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("main").focus(); });
  byId("theme").addEventListener("click", () => globalThis.toggleTheme());
  byId("sign").addEventListener("click", () => (token.get() ? signOut() : signIn({}, begin)));
  addEventListener("themechange", themed);
  addEventListener("hashchange", () => { show(); byId("main").focus({ preventScroll: true }); scrollTo(0, 0); });
  addEventListener("sign-in", (event) => { stop(); signIn(event.detail, begin); });
  themed();
}

function themed() {
  const dark = document.documentElement.dataset.theme === "dark";
  byId("theme").setAttribute("aria-pressed", String(dark));
  byId("theme").textContent = dark ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
}

function signOut() {
  token.set("");
  location.reload();
}

let told = "";
function status() {
  const words = { live: "live", wait: "connecting", down: "not connected" };
  const box = byId("status");
  box.dataset.state = live.state;
  if (told !== live.state) box.textContent = words[live.state];
  told = live.state;
  const count = byId("findings");
  if (count && live.last) {
    const worst = live.last.findings[0]?.severity;
    count.className = `count tag ${worst === "critical" ? "bad" : worst ? "warn" : ""}`;
    count.textContent = live.last.findings.length || "";
    count.hidden = !live.last.findings.length;
  }
}

function banner() {
  const box = byId("banner");
  if (!session.may_change) {
    box.hidden = false;
    box.replaceChildren(h("strong", {}, "Read only. "), session.why_not);
  } else if (!session.asks_for_token) {
    box.hidden = false;
    box.replaceChildren(h("strong", {}, "No tokens are asked for. "), "Whoever uses this machine can change things here, as with the command line. ", h("code", {}, "auth.tokens_file"), " makes nodes ask.");
  } else box.hidden = true;
  byId("sign").hidden = !session.asks_for_token;
  byId("sign").textContent = token.get() ? `Sign out${session.name ? ` ${session.name}` : ""}` : "Sign in";
  byId("where").textContent = session.cluster;
  byId("foot").replaceChildren(
    h("span", {}, `This is ${session.node}, release ${session.version}`),
    h("a", { href: "/metrics" }, "/metrics"), h("a", { href: "/readyz" }, "/readyz"), h("a", { href: "/livez" }, "/livez"));
}

async function begin() {
  try {
    Object.assign(session, await call("session"));
  } catch (error) {
    const again = error.status === 401 ? h("button", { type: "button", class: "main", onclick: () => signIn({}, begin) }, "Sign in") : h("button", { type: "button", onclick: begin }, "Try again");
    byId("main").replaceChildren(h("div", { class: "stack" }, problem(error), h("div", {}, again)));
    return;
  }
  banner();
  restart();
  show();
}

frame();
follow(status);
begin();
