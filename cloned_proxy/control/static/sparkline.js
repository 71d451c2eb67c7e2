// A row of bars, as inline SVG: how something went over time, the newest on the right.

const SVG = "http://www.w3.org/2000/svg";
const BAR = 5;
const STEP = 7;
const HEIGHT = 26;

/** `label` says in words what the bars show. */
export function sparkline(values, label) {
  const most = Math.max(1, ...values);
  const chart = svg("svg", { class: "spark", viewBox: `0 0 ${values.length * STEP - STEP + BAR} ${HEIGHT}`, role: "img", "aria-label": label, preserveAspectRatio: "none" });
  values.forEach((value, at) => {
    const height = value ? Math.max(2, Math.round((value / most) * HEIGHT)) : 1;
    chart.append(svg("rect", { x: at * STEP, y: HEIGHT - height, width: BAR, height, class: value ? "some" : "none" }));
  });
  return chart;
}

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
