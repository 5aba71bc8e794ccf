// Curves over the last ten minutes (uPlot). Colours come from the page's variables, so they follow light and dark.

import { h } from "./dom.js";

const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const sync = () => globalThis.uPlot.sync("console");

// A card with a chart. series: [{label, colour: "--s1", value(picture) → number | null, fill}], show(number) → text
export function chart({ heading, note, series, show, top, steps }) {
  const values = series.map(() => h("b", {}, "–"));
  const legend = h("ul", { class: "curves" }, series.map((each, at) => h("li", {}, h("span", { class: `chip c${each.colour.slice(3)}`, "aria-hidden": "true" }), each.label, values[at])));
  const box = h("div", { class: "chart", role: "img" });
  const element = h("figure", { class: "card" }, h("header", {}, h("h2", {}, heading), note ? h("span", { class: "muted" }, note) : null), legend, box);
  let plot = null, data = [[], ...series.map(() => [])];

  function tell(at) {
    series.forEach((each, index) => {
      const value = data[index + 1][at];
      values[index].textContent = value === null || value === undefined ? "–" : show(value);
    });
  }

  function options() {
    const axis = { stroke: colourOf("--muted"), font: "11px system-ui, sans-serif", grid: { stroke: colourOf("--grid"), width: 1 }, ticks: { show: false } };
    return {
      width: Math.max(box.clientWidth, 200), height: box.clientHeight || 190, padding: [8, 10, 0, 0],
      legend: { show: false }, cursor: { sync: { key: sync().key }, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, top ?? Math.max(high * 1.15, 1e-9)] } },
      axes: [{ ...axis, size: 28, space: 74, values: "{HH}:{mm}:{ss}" }, { ...axis, size: 62, space: 34, incrs: steps, values: (_, splits) => splits.map(show) }],
      series: [{}, ...series.map((each) => ({ stroke: colourOf(each.colour), width: 1.75, fill: each.fill ? `${colourOf(each.colour)}22` : undefined, points: { show: false }, spanGaps: false }))],
      hooks: { setCursor: [(self) => tell(self.cursor.idx ?? data[0].length - 1)] },
    };
  }

  function build() {
    plot?.destroy();
    plot = new globalThis.uPlot(options(), data, box);
  }

  const watcher = new ResizeObserver(() => plot?.setSize({ width: Math.max(box.clientWidth, 200), height: box.clientHeight || 190 }));
  watcher.observe(box);
  addEventListener("themechange", build);

  return {
    element,
    update(pictures) {
      data = [pictures.map((each) => each.at), ...series.map((each) => pictures.map((picture) => each.value(picture) ?? null))];
      plot ? plot.setData(data) : build();
      if (plot.cursor.idx === null || plot.cursor.idx === undefined) tell(data[0].length - 1);
      const last = data[0].length - 1;
      box.setAttribute("aria-label", `${heading}: ${series.map((each, at) => `${each.label} ${last >= 0 && data[at + 1][last] !== null ? show(data[at + 1][last]) : "not known"}`).join(", ")}`);
    },
    end() {
      watcher.disconnect();
      removeEventListener("themechange", build);
      plot?.destroy();
    },
  };
}
