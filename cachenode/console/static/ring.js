// The ring as a picture: outside the parts as they lie, inside how much each node owns in all.

import { h, percent, svg } from "./dom.js";

const OUTER = 92, INNER = 70;

export function ring(shape, members) {
  const at = new Map(members.map((each, index) => [each.id, index]));
  const colour = (id) => {
    const index = at.get(id);
    const up = index !== undefined && members[index].answers;
    return `arc c${((index ?? 0) % 8) + 1}${up ? "" : " off"}`;
  };
  const text = members.map((each) => `${each.id} owns ${percent(each.share)}${each.answers ? "" : ", does not answer"}`).join("; ");
  const picture = svg("svg", { class: "ring", viewBox: "-112 -112 224 224", role: "img", "aria-label": `The ring of view ${shape.epoch}: ${text}.` });
  let begin = 0;
  for (const [owner, parts] of shape.runs) {
    picture.append(arc(OUTER, 22, begin / shape.parts, (begin + parts) / shape.parts, colour(owner), 0));
    begin += parts;
  }
  let share = 0;
  for (const each of members) {
    picture.append(arc(INNER, 9, share, share + each.share, colour(each.id), members.length > 1 ? 0.006 : 0));
    share += each.share;
  }
  const up = members.filter((each) => each.answers).length;
  picture.append(svg("text", { y: 2, "font-size": 30 }, `${up}`), svg("text", { class: "sub", y: 22, "font-size": 12 }, `of ${members.length} nodes up`));
  const legend = h("ul", { class: "legend" }, members.map((each, index) => h("li", {}, h("span", { class: `chip c${(index % 8) + 1}`, "aria-hidden": "true" }), h("span", {}, each.id, each.weight > 1 ? ` (weight ${each.weight})` : ""), h("strong", {}, percent(each.share)))));
  return h("div", {}, picture, legend);
}

function arc(radius, width, from, to, kind, gap) {
  const end = Math.min(to - gap, from + 0.9999), begin = from + gap;
  const point = (part) => `${(radius * Math.sin(2 * Math.PI * part)).toFixed(3)} ${(-radius * Math.cos(2 * Math.PI * part)).toFixed(3)}`;
  return svg("path", { class: kind, "stroke-width": width, d: `M${point(begin)}A${radius} ${radius} 0 ${end - begin > 0.5 ? 1 : 0} 1 ${point(Math.max(end, begin))}` });
}
