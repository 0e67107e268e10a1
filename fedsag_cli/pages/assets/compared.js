// The page that compares runs.

function comparisonPage(data) {
  const { runs } = data;
  const paint = (at) => SERIES[at % SERIES.length];
  const name = (at) => el("span", { style: { display: "inline-flex", "align-items": "center", gap: "7px" } }, el("span", { className: "key box", style: { background: `var(${paint(at)})` } }), runs[at].name);
  const outcome = (run) => stateOf(run).toLowerCase();
  const best = (run) => (run.best ? `${run.best[0]} ${num(run.best[1])}` : "");
  const overview = runs.map((run, at) => [name(at), day(run.began), outcome(run), run.rounds, run.sites, run.failed_sites, run.seconds, run.bytes, best(run)]);
  const numbers = data.metrics.map((metric) => [metric.name, ...metric.runs.map((run) => run.last)]);
  const same = runs.length > 1 && runs[0].digest && runs.every((run) => run.digest === runs[0].digest);
  const cards = data.metrics.map((metric) => comparedCard(metric, runs, paint));
  return {
    title: `${runs.length} runs compared`,
    blocks: [
      el("header", {}, el("h1", {}, `${runs.length} runs compared`), el("p", { className: "under" }, same ? "All ended with the same final model, bit for bit." : "")),
      withoutCharts("To have charts: "),
      section("runs", "Runs", "", el("div", { className: "card" }, table([["run"], ["began"], ["outcome"], ["rounds", num], ["sites", num], ["failed", num], ["time", secs], ["data moved", bytes], ["best"]], overview))),
      section("settings", "Settings that differ", data.settings.length ? "Everything else is the same." : "", el("div", { className: "card" }, data.settings.length ? table([["setting"], ...runs.map((run) => [run.name])], data.settings.map(({ key, values }) => [key, ...values])) : "All settings are the same.")),
      numbers.length > 0 && section("numbers", "Final numbers", "Of the final model where it was measured, else of the model sent in the last round.", el("div", { className: "card" }, table([["metric"], ...runs.map((run) => [run.name, num])], numbers))),
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
  const series = metric.runs.map((run, n) => {
    const whole = new Float32Array(xs.length).fill(NaN);
    unpack(run.values).forEach((value, place) => { whole[at.get(places[n][place])] = value; });
    return { name: runs[n].name, values: whole, paint: paint(n), width: 2, spanGaps: true };
  });
  lineChart(card, { xs, tick: (x) => (Number.isInteger(x) ? String(x) : ""), title: (place) => `round ${xs[place]}`, series, rows: (index) => series.filter((each) => !Number.isNaN(each.values[index])).map((each) => [colour(each.paint), each.name, num(each.values[index])]) });
  return card;
}
