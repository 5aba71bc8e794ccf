// Dialogs: the browser's own, which keep the focus inside, end with Escape, and give the focus back.

import { token } from "./api.js";
import { h } from "./dom.js";

function open(dialog) {
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// Asks before something goes that does not come back. `act` does it; what it throws is shown, and the dialog stays.
export function confirm({ heading, target, effect, button, act }) {
  const wrong = h("div", { "aria-live": "assertive" });
  const go = h("button", { type: "submit", class: "danger" }, button);
  const dialog = h("dialog", { "aria-labelledby": "confirm-heading", "aria-describedby": "confirm-effect" },
    h("form", { method: "dialog" },
      h("h2", { id: "confirm-heading" }, heading),
      h("div", { class: "target key" }, target),
      h("p", { id: "confirm-effect", class: "small" }, effect),
      wrong,
      h("div", { class: "acts" }, h("button", { type: "button", onclick: () => dialog.close(), autofocus: true }, "Cancel"), go)));
  dialog.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (go.getAttribute("aria-disabled")) return;
    go.setAttribute("aria-disabled", "true");
    try {
      await act();
      dialog.close();
    } catch (error) {
      wrong.replaceChildren(h("div", { class: "problem" }, h("strong", {}, error.text || "that did not work"), error.hint ? h("p", {}, error.hint) : null));
      go.removeAttribute("aria-disabled");
    }
  });
  open(dialog);
}

let signing = null;
export function signIn(why, then) {
  if (signing?.open) return;
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true, autofocus: true });
  const dialog = signing = h("dialog", { "aria-labelledby": "sign-heading" },
    h("form", { method: "dialog" },
      h("h2", { id: "sign-heading" }, "Sign in to this cluster"),
      why.text ? h("div", { class: "problem", role: "alert" }, h("strong", {}, token.get() ? "This token is not known." : "These nodes ask for a token.")) : null,
      h("label", {}, "Token", input),
      h("p", { class: "small muted" }, "It is kept for this tab only. One of the role read lets you look, one of the role admin change things: ", h("code", {}, "cachenode token NAME --role admin"), " makes one."),
      h("div", { class: "acts" }, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), h("button", { type: "submit", class: "main" }, "Sign in"))));
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    token.set(input.value.trim());
    dialog.close();
    then();
  });
  open(dialog);
}
