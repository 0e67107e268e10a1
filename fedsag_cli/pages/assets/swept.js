// The page of a sweep.

function sweepPage(data) {
  const { runs } = data;
  const paint = (at) => SERIES[at % SERIES.length];
  const isNumber = data.columns.map((_, at) => data.rows.some((row) => typeof row[at] === "number"));
  const heads = data.columns.map((name, at) => (isNumber[at] ? [name, (value) => (value === null ? "" : num(value))] : [name]));
  const cards = data.metrics.map((metric) => comparedCard(metric, runs, paint));
  const named = (at) => el("span", { style: { display: "inline-flex", "align-items": "center", gap: "7px" } }, el("span", { className: "key box", style: { background: `var(${paint(at)})` } }), runs[at].name);
  return {
    title: data.title,
    blocks: [
      el("header", {}, el("h1", {}, data.title), el("p", { className: "under" }, data.lead)),
      withoutCharts("To have charts: "),
      section("variations", "Variations", "", el("div", { className: "card" }, table(heads, data.rows))),
      hasCharts && cards.length > 0 && section("metrics", "Metrics", runs.length > 1 ? `Means over the sites, by round, of ${count(runs.length, "run")}.` : "", el("div", { className: cards.length === 1 ? "cards one" : "cards" }, cards)),
      runs.length > 0 && section("details", "Details", "", el("div", { className: "card" }, definitions(runs.map((run, at) => [named(at), el("span", {}, el("code", {}, run.workspace), run.digest && el("div", { className: "quiet" }, `digest ${run.digest}`))])))),
    ],
  };
}
