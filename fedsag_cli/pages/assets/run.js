// The page of one run.

const FEW = 8; // sites with a curve of their own

function runPage(data) {
  const { head } = data;
  const picks = newPicks(data.sites.rows.map(([site]) => site));
  return {
    title: head.job || "run",
    blocks: [
      header(head, data.details),
      withoutCharts("It shows the same numbers in tables. To have charts in the next run: "),
      failureSection(data.failures, head),
      metricSection(data, picks),
      tableSection(data.tables),
      timelineSection(data.timeline, picks),
      stageSection(data.stages, head),
      loggedSection(data.logged, picks),
      privacySection(data.privacy),
      siteSection(data.sites),
      settingSection(data.settings, head),
      detailSection(data.details),
      el("footer", {}, `Made by fedsag ${data.details.versions.fedsag || ""}. All numbers are in report.json and events.jsonl beside this page.`),
    ],
  };
}

// sites that the reader has picked: charts and the timeline mark them

function newPicks(sites) {
  const told = [];
  const picks = { sites, names: [], then: (call) => told.push(call), paint: (at) => ["--s8", "--s4", "--s5", "--s2", "--s6"][at % 5] };
  picks.set = (names) => { picks.names = names; told.forEach((call) => call()); };
  return picks;
}

function pickTools(picks) {
  const list = el("datalist", { id: "site-names" }, picks.sites.map((site) => el("option", { value: site })));
  const find = el("input", { type: "search", placeholder: `find one of ${picks.sites.length} sites …`, ariaLabel: "find a site" });
  find.setAttribute("list", "site-names");
  const chips = el("span");
  const add = () => {
    if (!find.value || !picks.sites.includes(find.value)) return;
    if (!picks.names.includes(find.value)) picks.set([...picks.names.slice(-4), find.value]);
    find.value = "";
  };
  find.addEventListener("input", (event) => {
    if (!event.inputType || event.inputType === "insertReplacementText") add(); // chosen from the list, not typed
  });
  find.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    if (!find.value) return;
    find.value = picks.sites.find((site) => site === find.value) || picks.sites.find((site) => site.includes(find.value)) || find.value;
    add();
  });
  picks.then(() => chips.replaceChildren(...picks.names.map((name, at) => el("button", { className: "chip", type: "button", title: "remove", on: { click: () => picks.set(picks.names.filter((each) => each !== name)) } }, el("span", { className: "key box", style: { background: `var(${picks.paint(at)})` } }), name, " ×"))));
  return el("div", { className: "tools" }, find, list, chips);
}

function stateOf(run) {
  if (run.ok) return "Finished";
  return [129, 130, 143].includes(run.exit_code) ? "Interrupted" : "Failed";
}

function header(head, details) {
  const state = stateOf(head);
  const kind = { Finished: "good", Interrupted: "warn", Failed: "bad" }[state];
  const facts = [head.run > 0 && `run ${head.run}`, day(head.began), head.template && `template ${head.template}`, `seed ${details.seed}`, head.fork, details.resumed_at.length > 0 && `resumed ${details.resumed_at.length === 1 ? "once" : `${details.resumed_at.length} times`}`];
  const said = head.ok ? null : el("div", { className: kind === "warn" ? "said warn" : "said" }, el("p", {}, head.cause), head.hint && el("p", {}, head.hint, head.hint.includes(" -w . ") && " (-w . is the folder of this page)"));
  return el("header", {},
    el("h1", {}, head.job || "run"),
    el("p", { className: "under" }, el("span", { className: `pill ${kind}` }, state), facts.filter(Boolean).map((each) => el("span", {}, each))),
    said,
    el("div", { className: "tiles" }, tiles(head)));
}

function tiles(head) {
  const isFinal = Object.keys(head.final).length > 0;
  const shown = isFinal ? head.final : head.last;
  const names = Object.keys(shown);
  const first = head.best && names.includes(head.best.metric) ? head.best.metric : names[0];
  const made = [];
  if (first !== undefined) {
    const best = head.best && head.best.metric === first ? `best ${num(head.best.score)} ${head.best.is_final ? "(final model)" : `in round ${head.best.round}`}` : "";
    made.push(tile(first, num(shown[first]), [isFinal ? "final model" : "in the last round", best].filter(Boolean).join(" · ")));
  }
  made.push(tile("rounds", head.rounds.toLocaleString("en-US"), "complete"));
  made.push(tile("sites", head.sites.toLocaleString("en-US"), head.failed_sites ? `${head.failed_sites} failed` : "no failure", head.failed_sites > 0));
  made.push(tile("time", secs(head.seconds), [head.resumed && "without the time between its parts", head.rounds > 0 && `${secs(head.seconds_a_round)} a round`].filter(Boolean).join(" · ")));
  made.push(tile("data moved", bytes(head.sent + head.received), `${bytes(head.sent)} out, ${bytes(head.received)} back`));
  return made;
}

// failures

function failureSection(failures, head) {
  if (!failures.length) return null;
  const cards = failures.map((each) => {
    const when = [each.round !== null && `round ${each.round}`, each.task].filter(Boolean).join(", ");
    const who = each.count > 1 ? `${count(each.count, "site")}: ${few(each.sites, 6, each.count)}` : each.sites[0];
    return el("div", { className: "card fail" },
      el("p", { className: "who" }, who, when && ` · ${when}`),
      el("p", {}, el("b", {}, each.cause)),
      each.where && el("p", { className: "mono" }, each.where),
      each.tail.length > 0 && el("details", { open: failures.length <= 3 }, el("summary", {}, `the end of ${each.count > 1 ? `the log of ${each.sites[0]}` : "its log"}`, each.log && el("span", { className: "mono" }, `  ${each.log}`)), el("pre", {}, each.tail.join("\n"))));
  });
  return section("failures", "Failures", head.ok ? "Sites that failed while the run went on without them." : "The first failure of each site. Failures that are alike are told once.", el("div", { className: "cards one" }, cards));
}

// metrics

function metricSection(data, picks) {
  const { workflows, rounds } = data;
  if (!workflows.length && !rounds.rows.length) return null;
  const blocks = [];
  const many = workflows.some((each) => each.metrics.some((metric) => isBand(each, metric)));
  const cards = el("div", { className: "cards" });
  if (hasCharts) {
    if (many) blocks.push(pickTools(picks));
    for (const flow of workflows) {
      for (const metric of flow.metrics) cards.append(metricCard(flow, metric, workflows.length > 1, picks));
    }
    if (cards.children.length === 1) cards.classList.add("one");
    if (cards.children.length) blocks.push(cards);
  }
  const columns = [...(workflows.length > 1 ? [["workflow"]] : []), ["round", String], ...rounds.metrics.map((name) => [name, num]), ["answered"], ["time", secs]];
  const rows = rounds.rows.map((row) => (workflows.length > 1 ? row : row.slice(1)));
  const finals = Object.keys(data.head.final);
  if (finals.length && workflows.length <= 1) rows.push(["final", ...rounds.metrics.map((name) => data.head.final[name]), "", null]);
  const listed = rounds.count > rounds.rows.length ? `${rounds.rows.length} of ${rounds.count.toLocaleString("en-US")} rounds` : count(rounds.count, "round");
  blocks.push(hasCharts
    ? el("details", { className: "card" }, el("summary", { style: { margin: "0" } }, `Table of ${listed}`), table(columns, rows, { find: "find a round …" }))
    : el("div", { className: "card" }, el("h3", {}, `Table of ${listed}`), table(columns, rows, { find: "find a round …" })));
  const left = workflows.reduce((sum, flow) => sum + flow.left_out, 0);
  const lead = "A round's metrics belong to the model that was sent in it. " + (many ? "Bands show how the sites differ; find a site to see its own curve. " + someOf(data.sites) : "") + (left ? `${count(left, "further metric")} ${left === 1 ? "is" : "are"} in report.json.` : "");
  return section("metrics", "Metrics", lead, blocks);
}

function metricCard(flow, metric, isNamed, picks) {
  const mean = unpack(metric.mean);
  const last = [...mean].reverse().find((value) => !Number.isNaN(value));
  const name = isNamed ? `${metric.name} · ${flow.name}` : metric.name;
  const card = el("div", { className: "card" });
  const heading = el("h3", {}, el("span", {}, name), el("span", { className: "last" }, last === undefined ? "" : num(last)));
  const sites = flow.sites.map((site, at) => ({ site, packed: String(metric.by_site[at]), values: ownValues(metric.by_site[at], flow.places, mean.length) }));
  const known = sites.filter(({ values }) => values.some((value) => !Number.isNaN(value)));
  const label = (at) => (flow.has_final && at === mean.length - 1 ? "final model" : `round ${flow.rounds[at]}`);
  const common = {
    label: "round",
    xs: Array.from(mean, (_, at) => at),
    tick: (at) => (!Number.isInteger(at) ? "" : flow.has_final && at === mean.length - 1 ? "final" : String(flow.rounds[at] ?? "")),
    title: label,
  };
  const draw = () => {
    for (let at = drawn.length - 1; at >= 0; at -= 1) {
      if (!card.contains(drawn[at].box)) continue;
      if (drawn[at].plot) drawn[at].plot.destroy();
      drawn.splice(at, 1);
    }
    card.replaceChildren(heading);
    const spec = isBand(flow, metric) ? bandSpec(flow, metric, mean, known, picks) : lineSpec(mean, known, alike(known));
    return lineChart(card, { ...common, ...spec });
  };
  draw();
  if (isBand(flow, metric)) {
    picks.then(() => { draw()?.draw(); });
  }
  return card;
}

// whether the sites are too many for a curve each
function isBand(flow, metric) {
  return Boolean(metric.quantiles) && (flow.measured > flow.sites.length || new Set(metric.by_site.map(String)).size > FEW);
}

// of the sites that took part, a page names the worst, the slowest and those that failed
function someOf(sites) {
  const named = sites.rows.length;
  return sites.took_part > named && named > 0 ? `Of ${count(sites.took_part, "site")} that took part, ${named} are named here: the worst, the slowest and those that failed; report.json has all. ` : "";
}

// a site's values: at the places of all, or at places of its own
function ownValues(own, places, length) {
  const [at, values] = Array.isArray(own) ? [unpack(own[0], "i"), unpack(own[1])] : [places, unpack(own)];
  if (values.length === length) return values;
  const whole = new Float32Array(length).fill(NaN);
  at.forEach((place, n) => { whole[place] = values[n]; });
  return whole;
}

// sites with one curve, which would hide each other: [{sites, values}]
function alike(known) {
  const kinds = new Map();
  for (const { site, packed, values } of known) {
    if (kinds.has(packed)) kinds.get(packed).sites.push(site);
    else kinds.set(packed, { sites: [site], values });
  }
  return [...kinds.values()];
}

function lineSpec(mean, known, kinds) {
  const called = (sites) => (sites.length === 1 ? sites[0] : sites.length === known.length ? `all ${sites.length} sites are equal` : `${few(sites, 3)} (equal)`);
  const own = kinds.map(({ sites, values }, at) => ({ name: called(sites), values, paint: SERIES[at], width: 1.5, spanGaps: true }));
  const isDense = mean.length > 150; // dashes of so many points are a blot
  const all = { name: "mean", values: mean, paint: "--ink", width: isDense ? 1.25 : 2.25, spanGaps: true, dash: known.length && !isDense ? [6, 4] : undefined };
  const series = kinds.length === 1 ? own : [...own, all];
  return { series, rows: (index) => [...series].reverse().map((each) => [colour(each.paint), each.name, num(each.values[index])]) };
}

function bandSpec(flow, metric, mean, known, picks) {
  const [low, tenth, median, ninetieth, high] = metric.quantiles.map((each) => unpack(each));
  const lowest = unpack(metric.lowest, "i");
  const highest = unpack(metric.highest, "i");
  const last = lowest.reduce((found, each, at) => (each >= 0 ? at : found), -1);
  const named = (list, at) => flow.ends[list[at]] ?? "";
  const ends = [["lowest at the end", named(lowest, last), "--s3"], ["highest at the end", named(highest, last), "--s2"]]
    .map(([name, site, paint]) => [name, known.find((each) => each.site === site), paint])
    .filter(([, each]) => each && flow.measured === known.length); // of a part of the sites, two curves would say little
  const edge = (values) => ({ name: "", values, paint: "--s1", width: 0, key: false, points: false, spanGaps: true });
  const thin = (name, { site, values }, paint, width) => ({ name: `${site} (${name})`, values, paint, width, spanGaps: true, points: false });
  const picked = picks.names.map((site, at) => [known.find((each) => each.site === site), picks.paint(at)]).filter(([each]) => each);
  const series = [
    edge(high), edge(ninetieth), edge(tenth), edge(low),
    { name: "mean", values: mean, paint: "--s1", width: 2.25, spanGaps: true, points: false },
    ...ends.map(([name, each, paint]) => thin(name, each, paint, 1)),
    ...picked.map(([each, paint]) => ({ ...thin("", each, paint, 2), name: each.site, points: undefined })),
  ];
  const rows = (index) => [
    ...picked.map(([each, paint]) => [colour(paint), each.site, num(each.values[index])]),
    [colour("--s1"), "mean", num(mean[index])],
    [null, `highest: ${named(highest, index)}`, num(high[index])],
    [null, "90 %", num(ninetieth[index])],
    [null, "median", num(median[index])],
    [null, "10 %", num(tenth[index])],
    [null, `lowest: ${named(lowest, index)}`, num(low[index])],
  ];
  const bands = [
    { high: 0, low: 3, paint: "--s1", percent: 12, name: `all of ${count(flow.measured, "site")}` },
    { high: 1, low: 2, paint: "--s1", percent: 24, name: "10 % to 90 %" },
  ];
  return { series, bands, rows };
}

// result tables

function tableSection(tables) {
  if (!tables.length) return null;
  const cards = tables.map((each) => {
    const numeric = each.columns.map((_, at) => each.rows.some((row) => typeof row[at] === "number"));
    const columns = each.columns.map((name, at) => (numeric[at] ? [name, (value) => (value === null ? "" : num(value))] : [name]));
    const left = each.count > each.rows.length && el("p", { className: "quiet" }, `The first ${each.rows.length} of ${count(each.count, "row")}; report.json has all.`);
    return el("div", { className: "card" }, el("h3", {}, each.title), table(columns, each.rows), left);
  });
  const lead = "What the job found, beside its metrics by round.";
  return section("tables", "Result tables", lead, el("div", { className: tables.some((each) => each.columns.length > 4) || tables.length === 1 ? "cards one" : "cards" }, cards));
}

// time and bytes

const STAGES = { starting: "--s8", "clients work": "--s1", aggregation: "--s4", saving: "--s7", "rest of the rounds": "--faint", rest: "--faint", "outside complete rounds": "--line" };

function stageSection(stages, head) {
  const total = Object.values(stages.total).reduce((sum, each) => sum + each, 0);
  if (!total) return null;
  const parts = Object.entries(stages.total).filter(([, value]) => value > 0);
  const whole = el("div", { className: "card" },
    el("h3", {}, "The whole run", el("span", { className: "last" }, secs(head.seconds ?? total))),
    el("div", { className: "stack" }, parts.map(([name, value]) => el("i", { title: `${name}: ${secs(value)}`, style: { background: `var(${STAGES[name]})`, flex: `${value / total} 0 0` } }))),
    el("div", { className: "legend", style: { margin: "0" } }, parts.map(([name, value]) => el("span", {}, el("span", { className: "key box", style: { background: `var(${STAGES[name]})` } }), `${name} ${secs(value)} (${Math.round((100 * value) / total)} %)`))));
  const blocks = [whole];
  if (stages.labels.length) {
    const unit = stages.step > 1 ? `each ${stages.step} rounds` : "round";
    const title = (label) => (label.includes("–") ? `rounds ${label}` : `round ${label}`);
    const time = Object.entries(stages.series).map(([name, values]) => ({ name, values, paint: STAGES[name] }));
    const sizes = Object.entries(stages.bytes).map(([name, values], at) => ({ name, values, paint: SERIES[at] }));
    const isEmpty = [...time, ...sizes].every(({ values }) => values.every((value) => value === 0)); // no round was complete
    if (hasCharts && !isEmpty) {
      const [left, right] = [el("div", { className: "card" }, el("h3", {}, `Time by ${unit}`)), el("div", { className: "card" }, el("h3", {}, `Bytes by ${unit}`, el("span", { className: "last" }, bytes(head.sent + head.received))))];
      stackChart(left, { labels: stages.labels, series: time, format: secs, title });
      stackChart(right, { labels: stages.labels, series: sizes, format: bytes, title });
      blocks.push(el("div", { className: "cards" }, left, right));
    } else if (!isEmpty) {
      const columns = [["round"], ...time.map(({ name }) => [name, secs]), ...sizes.map(({ name }) => [name, bytes])];
      const rows = stages.labels.map((label, at) => [label, ...time.map(({ values }) => values[at]), ...sizes.map(({ values }) => values[at])]);
      blocks.push(el("div", { className: "card" }, el("h3", {}, `By ${unit}`), table(columns, rows)));
    }
  }
  return section("stages", "Time and bytes", "“Clients work” is the time in which the server waits for their answers.", blocks);
}

// what scripts logged

function loggedSection(logged, picks) {
  if (!logged.curves.length && !logged.texts.length) return null;
  const blocks = [];
  if (hasCharts && logged.curves.length) {
    blocks.push(el("div", { className: logged.curves.length === 1 ? "cards one" : "cards" }, logged.curves.map((each) => loggedCard(each, picks))));
  } else if (logged.curves.length) {
    const rows = logged.curves.flatMap(({ name, sites }) => sites.map(({ site, steps, values }) => { const all = unpack(values); return [name, site, all.length, all[0], all[all.length - 1]]; }));
    blocks.push(el("div", { className: "card" }, table([["name"], ["site"], ["values", num], ["first", num], ["last", num]], rows)));
  }
  if (logged.texts.length) {
    blocks.push(el("div", { className: "card" }, el("h3", {}, "Parameters, tags and texts"), table([["site"], ["name"], ["value"]], logged.texts)));
  }
  const rest = logged.left_out > 0 ? " More curves than a page can hold were logged; events.jsonl has all." : "";
  return section("logged", "Logged by the scripts", `Values that the training scripts logged, by step.${rest}`, blocks);
}

function loggedCard({ name, sites }, picks) {
  const card = el("div", { className: "card" }, el("h3", {}, name));
  const known = sites.map(({ site, steps, values }) => ({ site, steps: unpack(steps), values: unpack(values) }));
  const xs = [...new Set(known.flatMap(({ steps }) => [...steps]))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, at) => [x, at]));
  const series = known.map(({ site, steps, values }, at) => {
    const whole = new Float32Array(xs.length).fill(NaN);
    steps.forEach((step, n) => { whole[place.get(step)] = values[n]; });
    const few = known.length <= FEW;
    return { name: site, values: whole, paint: few ? SERIES[at] : "--s1", alpha: few ? 1 : 0.45, width: few ? 1.5 : 1, spanGaps: true, key: few, points: few ? undefined : false };
  });
  lineChart(card, { xs, label: "step", tick: (x) => num(x), title: (at) => `step ${num(xs[at])}`, series, rows: (index, plot) => nearest(series, index, plot, num) });
  return card;
}

// privacy

function privacySection(privacy) {
  if (!privacy.rounds) return null;
  const epsilon = unpack(privacy.epsilon);
  const spent = privacy.last === null ? "infinite" : num(privacy.last);
  const card = el("div", { className: "card" }, el("h3", {}, "epsilon by round", el("span", { className: "last" }, spent)));
  if (hasCharts) {
    lineChart(card, {
      label: "round",
      xs: Array.from(epsilon, (_, at) => at),
      tick: (at) => (Number.isInteger(at) ? String(privacy.rounds[at] ?? "") : ""),
      title: (at) => `after round ${privacy.rounds[at]}`,
      series: [{ name: "epsilon", values: epsilon, paint: "--s4", width: 2, key: false }],
      rows: (at) => [[colour("--s4"), "epsilon", Number.isNaN(epsilon[at]) ? "infinite" : num(epsilon[at])]],
    });
  } else {
    card.append(...table([["round", String], ["epsilon", (value) => (Number.isNaN(value) ? "infinite" : num(value))]], privacy.rounds.map((round, at) => [round, epsilon[at]])));
  }
  return section("privacy", "Privacy", `The run is (epsilon, delta)-differentially private with epsilon ${spent} at delta ${num(privacy.delta)}: ${privacy.mechanism}.`, card);
}

// sites, settings, details

function siteSection(sites) {
  if (!sites.rows.length) return null;
  const own = [...sites.metrics.map((name) => [name, num]), ...(sites.has_samples ? [["samples", num]] : []), ["answers", num], ["failures", num], ["time at work", secs], ["longest task", secs]];
  const blocks = [];
  if (sites.quantiles.length) {
    const rows = sites.quantiles.map((each, at) => [own[at][0], ...(each.length ? each.map(own[at][1]) : ["", "", "", "", ""])]);
    const heads = ["min", "10 %", "median", "90 %", "max"].map((name) => [name, String]);
    blocks.push(el("div", { className: "card" }, el("h3", {}, `Over ${count(sites.took_part, "site")}`), table([["of a site"], ...heads], rows)));
  }
  blocks.push(el("div", { className: "card" }, table([["site"], ...own], sites.rows, { find: "find a site …" })));
  return section("sites", "Sites", `Each site's last metrics, its answers and its time on tasks. ${someOf(sites)}Click a heading to sort.`, ...blocks);
}

function settingSection(settings, head) {
  if (!settings.length) return null;
  const changed = settings.filter((each) => each.template !== undefined);
  const shown = (value) => value ?? el("span", { className: "quiet" }, "not set");
  const row = ({ key, value, template }) => Object.assign([key, shown(value), template === undefined ? "" : shown(template)], { changed: template !== undefined });
  const lead = changed.length ? `${count(changed.length, "setting")} differ${changed.length === 1 ? "s" : ""} from the template${head.template ? ` ${head.template}` : ""}; marked, and first.` : head.template ? `All are as in the template ${head.template}.` : "";
  const columns = [["setting"], ["value"], ...(changed.length ? [["in the template"]] : [])];
  return section("settings", "Settings", lead, el("div", { className: "card" }, table(columns, settings.map(row), { find: "find a setting …" })));
}

function detailSection(details) {
  const lines = (texts) => (texts.length ? texts.map((text) => el("div", {}, text)) : "");
  const versions = Object.entries(details.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  const codes = Object.entries(details.exit_codes).map(([name, code]) => `${name}: ${code}`);
  return section("details", "Details", "", el("div", { className: "card" }, definitions([
    ["ran in", el("code", {}, details.workspace)],
    ["models, beside this page", lines(details.models)],
    ["curves, from the folder of this page", lines(details.curves)],
    ["notes", lines(details.notices)],
    ["digest of the final model", details.digest && el("code", {}, details.digest)],
    ["clients at a time", details.slots ? String(details.slots) : ""],
    ["threads of each client", details.threads ? String(details.threads) : ""],
    ["launcher", details.launcher],
    ["resumed after rounds", details.resumed_at.join(", ")],
    ["sites that set their own seeds", few(details.seeded_themselves)],
    ["exit codes that are not 0", few(codes, 20)],
    ["versions", versions],
  ])));
}
