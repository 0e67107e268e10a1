// The page that compares runs.

function comparisonPage(data) {
  const { runs } = data;
  const paint = (at) => SERIES[at % SERIES.length];
  const name = (at) => el("span", { style: { display: "inline-flex", "align-items": "center", gap: "7px" } }, el("span", { className: "key box", style: { background: `var(${paint(at)})` } }), runs[at].name);
  const status = (run) => stateOf(run).toLowerCase();
  const marked = (metric, at) => {
    const isBest = runs.length > 1 && metric.best.of.length < runs.length && metric.best.of.includes(at);
    return el("span", { className: isBest ? "best" : "" }, num(metric.best.values[at]), isBest && " best");
  };
  const shown = data.metrics.slice(0, 3);
  const overview = runs.map((run, at) => [name(at), ...shown.map((metric) => marked(metric, at)), run.job, run.differs, status(run), run.rounds, run.sites, run.failed_sites, run.seconds, run.bytes, day(run.began)]);
  const heads = [["run"], ...shown.map((metric) => [`best ${metric.name}`]), ["job"], ["differs in"], ["status"], ["rounds", num], ["sites", num], ["failed", num], ["time", secs], ["data moved", bytes], ["began"]];
  const numbers = data.metrics.flatMap((metric) => [
    [metric.name, "best", ...runs.map((_, at) => marked(metric, at))],
    [metric.name, "last", ...metric.runs.map((run) => num(run.last))],
  ]);
  const same = runs.length > 1 && runs[0].digest && runs.every((run) => run.digest === runs[0].digest);
  const cards = data.metrics.map((metric) => comparedCard(metric, runs, paint));
  return {
    title: `${runs.length} runs compared`,
    blocks: [
      el("header", {}, el("h1", {}, `${runs.length} runs compared`), el("p", { className: "under" }, same ? "All ended with the same final model, bit for bit." : "")),
      withoutCharts("To have charts: "),
      section("runs", "Runs", "", el("div", { className: "card" }, table(heads, overview))),
      section("settings", "Settings that differ", data.settings.length ? "Everything else is the same." : "", el("div", { className: "card" }, data.settings.length ? table([["setting"], ...runs.map((run) => [run.name])], data.settings.map(({ key, values }) => [key, ...values])) : "All settings are the same.")),
      numbers.length > 0 && section("numbers", "Best and last values", "The last value is of the final model where it was measured, else of the model sent in the last round.", el("div", { className: "card" }, table([["metric"], ["value"], ...runs.map((run) => [run.name])], numbers))),
      hasCharts && cards.length > 0 && section("metrics", "Metrics", "Means over the sites, by round.", el("div", { className: cards.length === 1 ? "cards one" : "cards" }, cards)),
      section("details", "Details", "", el("div", { className: "card" }, definitions(runs.map((run, at) => [name(at), el("span", {}, el("code", {}, run.workspace), !run.ok && run.cause && el("div", {}, run.cause), run.digest && el("div", { className: "quiet" }, `digest ${run.digest}`))])))),
    ],
  };
}

function comparedCard(metric, runs, paint) {
  const card = el("div", { className: "card" }, el("h3", {}, metric.name));
  if (!hasCharts) return card;
  const rounds = metric.runs.map((run) => run.rounds);
  const simple = rounds.every((all) => all.every((value, at) => at === 0 || value > all[at - 1]));
  const places = rounds.map((all) => (simple ? all : all.map((_, at) => at)));
  const xs = [...new Set(places.flat())].sort((a, b) => a - b);
  const at = new Map(xs.map((x, place) => [x, place]));
  const hasJobs = runs.some((run) => run.job !== runs[0].job);
  const series = metric.runs.map((run, n) => {
    const whole = new Float32Array(xs.length).fill(NaN);
    unpack(run.values).forEach((value, place) => { whole[at.get(places[n][place])] = value; });
    return { name: [runs[n].name, hasJobs && runs[n].job, runs[n].differs].filter(Boolean).join(" · "), values: whole, paint: paint(n), width: 2, spanGaps: true };
  });
  lineChart(card, { xs, label: "round", tick: (x) => (Number.isInteger(x) ? String(x) : ""), title: (place) => `round ${xs[place]}`, series, rows: (index) => series.filter((each) => !Number.isNaN(each.values[index])).map((each) => [colour(each.paint), each.name, num(each.values[index])]) });
  return card;
}
