// Calls of the node. The token is kept for this tab alone, and travels in a header.

const KEY = "cachenode-token";
let memory = "";

export const token = {
  get: () => { try { return sessionStorage.getItem(KEY) || memory; } catch { return memory; } },
  set: (text) => {
    memory = text;
    try { text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY); } catch { /* kept in memory alone */ }
  },
};

export class Refusal extends Error {
  constructor(status, text, hint) {
    super(text);
    Object.assign(this, { status, text, hint });
  }
}

export function post(name, body, signal) {
  const headers = { "Content-Type": "application/json", "X-Cachenode-Console": "1" };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  return fetch(`/ui/api/${name}`, { method: "POST", headers, body: JSON.stringify(body), signal, cache: "no-store", credentials: "omit", redirect: "error" });
}

export async function refusalOf(response) {
  const found = await response.json().catch(() => null);
  const error = found?.error || { text: `the node answered ${response.status}`, hint: "" };
  if (response.status === 401) dispatchEvent(new CustomEvent("sign-in", { detail: error }));
  return new Refusal(response.status, error.text, error.hint);
}

export async function call(name, body = {}) {
  let response;
  try {
    response = await post(name, body);
  } catch {
    throw new Refusal(0, "this node does not answer", "Is it up, and reached from here? The console of another node shows the same cluster.");
  }
  if (!response.ok) throw await refusalOf(response);
  return response.json();
}
