// Charts: uPlot draws them. They follow the width of the page, and the theme.

const drawn = [];

function keep(box, make) {
  const one = { box, make, plot: null };
  const draw = () => {
    const hidden = one.plot ? one.plot.series.map((each) => each.show) : null;
    if (one.plot) one.plot.destroy();
    box.replaceChildren();
    one.plot = make(box, Math.max(200, box.clientWidth));
    if (hidden && hidden.length === one.plot.series.length) {
      hidden.forEach((show, at) => { if (at && !show) one.plot.setSeries(at, { show: false }); });
    }
  };
  one.draw = draw;
  drawn.push(one);
  return one;
}

function drawAll() {
  for (const one of drawn) one.draw();
}

function followWidth() {
  const watcher = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      const one = drawn.find((each) => each.box === target);
      const width = Math.max(200, target.clientWidth);
      if (one && one.plot && one.plot.width !== width) one.plot.setSize({ width, height: one.plot.height });
    }
  });
  for (const one of drawn) watcher.observe(one.box);
}

// what a cursor is at: a small block beside it

function tipOf(plot) {
  const tip = el("div", { className: "tip", hidden: true });
  plot.over.appendChild(tip);
  return (content) => {
    tip.hidden = !content;
    if (!content) return;
    tip.replaceChildren(el("b", {}, content.title), el("div", {}, content.rows.flatMap(([paint, name, value]) => [
      el("span", { className: "key box", style: { background: paint || "transparent" } }),
      el("span", { className: "name-of" }, name),
      el("span", { className: "value" }, value),
    ])));
    const { left, top } = plot.cursor;
    const width = tip.offsetWidth;
    const room = plot.over.clientWidth;
    let place = left + 14;
    if (place + width > room) place = left - width - 14 >= -40 ? left - width - 14 : Math.max(-40, room - width);
    tip.style.left = `${place}px`;
    tip.style.top = `${Math.max(-10, Math.min(top - 12, plot.over.clientHeight - tip.offsetHeight + 40))}px`;
  };
}

function axis(side, values, extra) {
  return {
    side,
    stroke: colour("--faint"),
    font: '12px system-ui, "DejaVu Sans", sans-serif',
    grid: { stroke: colour("--grid"), width: 1, show: side === 3 },
    ticks: { stroke: colour("--line"), width: 1, size: 4, show: side === 2 },
    border: { show: false },
    gap: 5,
    values,
    ...extra,
  };
}

// what the numbers under an axis count
const named = (label) => ({ label, labelSize: 18, labelGap: 0, labelFont: '12px system-ui, "DejaVu Sans", sans-serif' });

const yAxis = (format) => axis(3, (plot, splits) => splits.map((each) => format(each)), {
  size: (plot, values) => 14 + 6.9 * Math.max(3, ...(values || []).map((each) => String(each).length)),
});

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1e6, 1e7, 1e8, 1e9];

function finite(values) {
  return Array.from(values, (value) => (Number.isFinite(value) ? value : null));
}

// the places of values that no line reaches: without a point, nobody would see them
function alone(values, spanGaps) {
  const known = values.flatMap((value, at) => (value === null ? [] : [at]));
  if (spanGaps) return known.length === 1 ? known : [];
  return known.filter((at) => (values[at - 1] ?? null) === null && (values[at + 1] ?? null) === null);
}

// a flat curve is in the middle
function heights(plot, low, high) {
  if (low === null) return [null, null];
  const room = Math.abs(low) * 0.1 || 1;
  return low === high ? [low - room, high + room] : uPlot.rangeNum(low, high, 0.1, true);
}

// spec: xs, label (of xs), tick(x), title(index), series [{name, values, paint, width, dash, fill, key, hidden}], bands, rows(index, plot), format, height
function lineChart(card, spec) {
  const format = spec.format || num;
  if (!spec.series.some((each) => finite(each.values).some((value) => value !== null))) {
    card.append(el("p", { className: "quiet" }, "No value is finite."));
    return null;
  }
  const box = el("div", { className: "plot" });
  const legend = el("div", { className: "legend" });
  card.append(legend, box);
  const one = keep(box, (parent, width) => {
    let show = null;
    const values = spec.series.map((each) => finite(each.values));
    const isPointed = (each) => each.points !== false && spec.xs.length <= 40;
    const series = spec.series.map((each, at) => ({
      label: each.name,
      show: !each.hidden,
      stroke: each.width === 0 ? undefined : colour(each.paint),
      width: each.width ?? 1.5,
      dash: each.dash,
      alpha: each.alpha ?? 1,
      spanGaps: each.spanGaps ?? false,
      points: {
        show: each.width !== 0 && isPointed(each),
        filter: () => (each.width === 0 || isPointed(each) ? null : alone(values[at], each.spanGaps)),
        size: 5,
        fill: colour(each.paint),
      },
    }));
    const options = {
      width,
      height: spec.height || 245,
      padding: [10, 14, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: true, y: false, dist: 6 }, focus: { prox: spec.series.length > 12 ? 1e6 : -1 }, points: { size: 7 } },
      focus: { alpha: spec.series.length > 12 && !spec.bands ? 0.25 : 1 },
      scales: { x: { time: false, range: (plot, low, high) => (spec.xs.length === 1 ? [spec.xs[0] - 0.5, spec.xs[0] + 0.5] : [low, high]) }, y: { range: heights } },
      axes: [
        axis(2, (plot, splits) => splits.map((each) => spec.tick(each)), { incrs: STEPS, size: 30, space: 46, ...named(spec.label) }),
        yAxis(format),
      ],
      series: [{}, ...series],
      bands: (spec.bands || []).map(({ high, low, paint, percent }) => ({ series: [high + 1, low + 1], fill: faded(paint, percent) })),
      hooks: {
        setCursor: [(plot) => {
          const { idx, left } = plot.cursor;
          if (!show) return;
          show(idx === null || idx === undefined || left < 0 ? null : { title: spec.title(idx), rows: spec.rows(idx, plot) });
        }],
      },
    };
    const plot = new uPlot(options, [spec.xs, ...values], parent);
    show = tipOf(plot);
    return plot;
  });
  for (const [at, each] of spec.series.entries()) {
    if (each.key === false) continue;
    const key = el("span", { className: "key", style: { background: `var(${each.paint})` } });
    const button = el("button", { type: "button", title: "show or hide" }, key, el("span", { className: "name-of" }, each.name));
    button.addEventListener("click", () => {
      const show = !one.plot.series[at + 1].show;
      one.plot.setSeries(at + 1, { show });
      button.classList.toggle("off", !show);
    });
    legend.append(button);
  }
  for (const { name, paint, percent } of spec.bands || []) {
    legend.append(el("span", {}, el("span", { className: "key box", style: { background: `color-mix(in srgb, var(${paint}) ${percent + 8}%, transparent)` } }), name));
  }
  return one;
}

// the values nearest to the cursor, for charts in which many sites have a curve
function nearest(series, index, plot, format, most = 9) {
  const wanted = plot.posToVal(plot.cursor.top, "y");
  const known = series
    .map((each, at) => [each, at])
    .filter(([each, at]) => each.width !== 0 && plot.series[at + 1].show && !Number.isNaN(each.values[index]) && each.values[index] !== null);
  const rows = known.length > most ? known.sort(([a], [b]) => Math.abs(a.values[index] - wanted) - Math.abs(b.values[index] - wanted)).slice(0, most) : known;
  const shown = rows.map(([each]) => [colour(each.paint), each.name, format(each.values[index])]);
  return known.length > rows.length ? [...shown, [null, `${known.length - rows.length} more`, ""]] : shown;
}

// bars by round, one stage on another
function stackChart(card, { labels, series, format, title }) {
  const box = el("div", { className: "plot" });
  card.append(el("div", { className: "legend" }, series.map(({ name, paint }) => el("span", {}, el("span", { className: "key box", style: { background: `var(${paint})` } }), name))), box);
  const sums = [];
  for (const [at, each] of series.entries()) sums.push(each.values.map((value, index) => value + (at ? sums[at - 1][index] : 0)));
  const xs = labels.map((_, at) => at);
  const bars = uPlot.paths.bars({ size: labels.length > 60 ? [1] : [0.82, 44], align: 0 });
  return keep(box, (parent, width) => {
    let show = null;
    const plot = new uPlot({
      width,
      height: 215,
      padding: [10, 14, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: true, y: false, dist: 6 }, points: { show: false } },
      scales: {
        x: { time: false, range: (plot, low, high) => [Math.max(-0.6, low - 0.6), Math.min(labels.length - 0.4, high + 0.6)] },
        y: { range: (plot, low, high) => [0, (high || 1) * 1.06] },
      },
      axes: [
        axis(2, (plot, splits) => splits.map((each) => (Number.isInteger(each) && labels[each] !== undefined ? labels[each].split("–")[0] : "")), { incrs: STEPS, size: 30, space: 46, ...named("round") }),
        yAxis(format),
      ],
      series: [{}, ...series.map(({ paint }) => ({ paths: bars, fill: colour(paint), stroke: colour(paint), width: labels.length > 60 ? 1 : 0, points: { show: false } })).reverse()],
      hooks: {
        setCursor: [({ cursor }) => {
          if (!show) return;
          if (cursor.idx === null || cursor.idx === undefined || cursor.left < 0) return show(null);
          show({ title: title(labels[cursor.idx]), rows: series.map(({ name, paint, values }) => [colour(paint), name, format(values[cursor.idx])]).reverse() });
        }],
      },
    }, [xs, ...[...sums].reverse()], parent);
    show = tipOf(plot);
    return plot;
  });
}
