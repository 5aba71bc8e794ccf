// The live stream: pictures of the cluster as they come, and the last ten minutes. It comes back by itself.

import { post, refusalOf } from "./api.js";

export const live = { pictures: [], last: null, state: "wait", trouble: null, everyS: 2 };
const KEPT = 300;
const hearers = new Set();
let running = null;

// Calls `hear` now and with each picture, until what it returns is called.
export function follow(hear) {
  hearers.add(hear);
  hear();
  return () => hearers.delete(hear);
}

export function restart() {
  running?.abort();
  running = new AbortController();
  run(running.signal);
}

export function stop() {
  running?.abort();
  running = null;
}

async function run(signal) {
  for (let pause = 1000; !signal.aborted; pause = Math.min(pause * 2, 15000)) {
    tell("wait", null);
    try {
      const response = await post("live", {}, signal);
      if (!response.ok) {
        const refusal = await refusalOf(response);
        if (response.status === 401 || response.status === 403) return tell("down", refusal);
        tell("down", refusal);
      } else if (await read(response)) {
        pause = 1000;
      }
    } catch {
      if (signal.aborted) return;
    }
    if (live.state !== "down") tell("down", { text: "the connection to this node is lost", hint: "It is tried again. The console of another node shows the same cluster." });
    await new Promise((done) => setTimeout(done, pause));
  }
}

async function read(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", heard = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return heard;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const kind = /^event: (.*)$/m.exec(part)?.[1];
      const data = /^data: (.*)$/m.exec(part)?.[1];
      if (kind && data) take(kind, JSON.parse(data));
      heard = true;
    }
  }
}

function take(kind, data) {
  if (kind === "history") {
    live.pictures = data.pictures;
    live.everyS = data.every_s;
  } else if (kind === "picture") {
    live.last = data;
    if (data.total && data.at !== live.pictures.at(-1)?.at) live.pictures.push(data);
    if (live.pictures.length > KEPT) live.pictures.shift();
    tell("live", null);
  } else {
    if (data.status === 401) dispatchEvent(new CustomEvent("sign-in", { detail: data }));
    tell("down", data);
  }
}

function tell(state, trouble) {
  Object.assign(live, { state, trouble });
  for (const hear of hearers) hear();
}
