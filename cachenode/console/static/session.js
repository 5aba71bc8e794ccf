// Who answers, and what whoever looks may do; filled in by console.js.
export const session = { node: "", version: "", cluster: "", asks_for_token: false, name: "", role: "", may_change: false, why_not: "" };

export const mayAdmin = () => session.may_change && (!session.asks_for_token || session.role === "admin" || session.role === "peer");
