"use strict";
// Values under the pointer, or at the place that the arrow keys choose. The page is whole without it.
const formats = {
  percent: v => (100 * v).toFixed(2) + " %",
  plain: v => v === 0 ? "0" : Math.abs(v) < 1e-4 || Math.abs(v) >= 1e6 ? v.toExponential(3) : v.toPrecision(4),
  count: v => Math.round(v).toLocaleString("en").replace(/,/g, "\u202f"),
};
const whole = formats.count;

/** Index of the number in ascending `list` that is nearest to `x`. */
function nearest(list, x) {
  let low = 0, high = list.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < x) low = middle + 1; else high = middle;
  }
  return low > 0 && x - list[low - 1] <= list[low] - x ? low - 1 : low;
}

function line(text, slot) {
  const row = document.createElement("div");
  if (slot !== undefined) {
    const mark = document.createElement("i");
    mark.style.background = `var(--c${slot})`;
    row.append(mark);
  }
  row.append(text);
  return row;
}

/** Shows `rows` beside the place `left` (0–1) of `area`. */
function show(area, left, rows) {
  const tip = area.querySelector(".tip");
  tip.replaceChildren(...rows);
  const right = left > 0.5;
  tip.style.left = right ? "auto" : `calc(${100 * left}% + .6rem)`;
  tip.style.right = right ? `calc(${100 * (1 - left)}% + .6rem)` : "auto";
  area.classList.add("on");
}

function chart(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const format = formats[data.format];
  const area = figure.querySelector(".area");
  const all = [...new Set(data.series.flatMap(s => s.x))].sort((a, b) => a - b);
  const [from, to] = data.x;
  const at = i => {
    const x = all[i], left = (x - from) / (to - from);
    const rows = data.series.map(s => {
      const k = nearest(s.x, x);
      return line(`${s.name} ${format(s.y[k])}`, s.slot);
    });
    area.querySelector(".cursor").style.left = `${100 * left}%`;
    show(area, left, [line(`iteration ${whole(x)}`), ...rows]);
  };
  return { area, last: all.length - 1, rows: 1, at, of: x => nearest(all, from + x * (to - from)) };
}

function heat(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const format = formats[data.format];
  const area = figure.querySelector(".area");
  const cell = area.querySelector(".cell");
  const columns = data.x.length, rows = data.classes.length;
  const at = (i, row) => {
    const value = data.values[i][row];
    Object.assign(cell.style, {
      left: `${100 * i / columns}%`, width: `${100 / columns}%`,
      top: `${100 * row / rows}%`, height: `${100 / rows}%`,
    });
    const text = value === null || value === undefined ? "–" : format(value);
    show(area, (i + 0.5) / columns, [line(`iteration ${whole(data.x[i])}`), line(`${data.classes[row]} ${text}`)]);
  };
  return { area, last: columns - 1, rows, at, of: x => Math.min(columns - 1, Math.floor(x * columns)) };
}

function listen(figure, { area, last, rows, at, of }) {
  const plot = figure.querySelector(".plot");
  const hide = () => area.classList.remove("on");
  let column = last, row = 0;
  const point = event => {
    const box = area.getBoundingClientRect();
    const clamp = v => Math.min(1, Math.max(0, v));
    column = of(clamp((event.clientX - box.left) / box.width));
    row = Math.min(rows - 1, Math.floor(rows * clamp((event.clientY - box.top) / box.height)));
    at(column, row);
  };
  area.addEventListener("pointermove", point);
  area.addEventListener("pointerdown", point);
  // A finger that lifts leaves the values; a tap elsewhere takes them away.
  area.addEventListener("pointerleave", event => event.pointerType === "touch" || hide());
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", event => {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Home: [-last, 0], End: [last, 0] }[event.key] ?? [0, 0];
    if (event.key === "Escape") hide();
    if (!dx && (!dy || rows === 1)) return;
    event.preventDefault();
    column = Math.min(last, Math.max(0, column + dx));
    row = Math.min(rows - 1, Math.max(0, row + dy));
    at(column, row);
  });
}

document.querySelectorAll(".chart").forEach(f => listen(f, chart(f)));
document.querySelectorAll(".heat").forEach(f => listen(f, heat(f)));
