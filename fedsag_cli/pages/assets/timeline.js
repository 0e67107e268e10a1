// Who worked, who waited and who was idle: a row for each site, and one for the server.

const SPENT = [
  ["works on a task", "--s1"],
  ["waits for its task", "--wait"],
  ["failed in a task", "--s5"],
  ["server aggregates", "--s4"],
  ["server saves", "--s7"],
];

function timelineSection(data, picks) {
  if (!data.sites) return null;
  const note = [
    data.whose === "worker"
      ? "A row for each worker. It does the tasks of one site after another; the rest of the time it is idle. "
      : "A row for each site. Before it has its task in a round, a site waits: for its start, for a free slot or for its turn. The rest of the time it is idle: it has answered, and others have not. ",
    hasCharts && "Drag to enlarge a part; double-click to see all again. ",
    data.skipped > 0 && `The first ${bytes(data.skipped)} of events.jsonl are not shown. `,
  ];
  const cards = [];
  if (hasCharts) {
    const whole = el("div", { className: "card" });
    if (data.shares) {
      whole.append(el("h3", {}, `The whole run: how much each ${data.whose} worked`));
      drawShares(whole, data, picks);
      cards.push(whole);
    }
    const close = el("div", { className: "card" });
    const spans = spansOf(data);
    const rounds = new Set(spans.rounds).size;
    if (data.shares) close.append(el("h3", {}, data.is_part ? "The end of the last round" : `The last ${rounds === 1 ? "round" : `${rounds} rounds`}`));
    drawSpans(close, data, spans, picks);
    cards.push(close);
  } else {
    cards.push(el("div", { className: "card" }, table([[data.whose], ["works", secs], ["waits", secs], ["idle", secs]], usedTimes(data))));
  }
  return section("timeline", "Timeline", note.filter(Boolean).join(""), cards);
}

function spansOf({ spans }) {
  return {
    rows: unpack(spans.rows, "h"), kinds: unpack(spans.kinds, "b"), starts: unpack(spans.starts),
    ends: unpack(spans.ends), rounds: unpack(spans.rounds, "i"), tasks: unpack(spans.tasks, "h"), of: unpack(spans.of, "i"),
  };
}

function usedTimes(data) {
  const rows = data.sites.map((site) => [site, 0, 0, 0]);
  if (data.shares) {
    const step = data.total / data.shares.moments / 255;
    for (const [place, text] of [[1, data.shares.worked], [2, data.shares.waited]]) {
      unpack(text, "B").forEach((share, at) => {
        const row = rows[Math.floor(at / data.shares.moments)];
        if (row) row[place] += share * step;
      });
    }
  } else {
    const { rows: sites, kinds, starts, ends } = spansOf(data);
    sites.forEach((site, at) => { if (site >= 0) rows[site][kinds[at] === 1 ? 2 : 1] += ends[at] - starts[at]; });
  }
  for (const row of rows) row[3] = Math.max(0, data.total - row[1] - row[2]);
  return rows;
}

// where the rows are: the server's is the first, and high enough to be read
function layoutOf(sites) {
  const names = ["server", ...sites];
  const row = names.length <= 12 ? 26 : names.length <= 40 ? 16 : Math.max(2, 520 / names.length);
  const first = Math.max(1, Math.ceil(14 / row));
  const lines = sites.length + first;
  const line = (place) => (place === 0 ? 0 : place - 1 + first);
  const high = (place) => (place === 0 ? first : 1);
  const step = Math.max(1, Math.ceil(15 / row));
  return {
    names,
    lines,
    height: Math.round(lines * row) + 42,
    labelled: names.map((_, at) => at).filter((at) => at === 0 || ((at - 1) % step === 0 && (line(at) + 0.5 - first / 2) * row >= 13)),
    middle: (place) => lines - line(place) - high(place) / 2,
    placeAt: (part) => Math.max(0, Math.min(names.length - 1, Math.floor(part * lines) - first + 1)),
    // the pixels of a row
    band: ({ bbox }, place) => {
      const tall = bbox.height / lines;
      const gap = tall > 8 * devicePixelRatio ? Math.round(tall * 0.18) : 0;
      const top = Math.round(bbox.top + line(place) * tall);
      return [top + gap / 2, Math.max(1, Math.round(bbox.top + (line(place) + high(place)) * tall) - top - gap)];
    },
  };
}

// paint(plot, bar) draws with bar(row, from, to, colour, alpha); told(row, time, plot): the rows of the tip
function rowChart(card, data, picks, { from, keys, paint, told }) {
  const { names, lines, height, labelled, middle, placeAt, band } = layoutOf(data.sites);
  const box = el("div", { className: "plot" });
  const short = (name) => (name.length > 16 ? `${name.slice(0, 9)}…${name.slice(-6)}` : name);
  const longest = Math.max(...labelled.map((at) => short(names[at]).length));
  card.append(el("div", { className: "legend" }, keys.map(([name, fill]) => el("span", {}, el("span", { className: "key box", style: { background: `var(${fill})` } }), name))), box);

  const draw = (plot) => {
    const { ctx, bbox } = plot;
    const right = bbox.left + bbox.width;
    const at = (time) => Math.round(Math.max(bbox.left, Math.min(right, plot.valToPos(time, "x", true))));
    const bar = (place, start, end, fill, alpha = 1) => {
      if (end < plot.scales.x.min || start > plot.scales.x.max) return;
      const [top, tall] = band(plot, place);
      const x = at(start);
      ctx.globalAlpha = alpha;
      ctx.fillStyle = fill;
      ctx.fillRect(x, top, Math.max(at(end) - x, 1), tall);
    };
    ctx.save();
    names.forEach((_, place) => bar(place, from, data.total, colour("--track")));
    paint(bar);
    ctx.globalAlpha = 1;
    ctx.strokeStyle = colour("--ink");
    ctx.lineWidth = devicePixelRatio;
    for (const site of picks.names) {
      const place = data.sites.indexOf(site) + 1;
      const [top, tall] = band(plot, place);
      if (place) ctx.strokeRect(bbox.left, top - devicePixelRatio, bbox.width, tall + 2 * devicePixelRatio);
    }
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const time of data.resumed.filter((each) => each > plot.scales.x.min && each < plot.scales.x.max)) {
      ctx.beginPath();
      ctx.moveTo(at(time), bbox.top);
      ctx.lineTo(at(time), bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };

  const one = keep(box, (parent, width) => {
    let show = null;
    const follow = (plot) => {
      const { left, top } = plot.cursor;
      if (!show) return;
      if (left < 0 || top < 0) return show(null);
      const time = plot.posToVal(left, "x");
      const place = placeAt(top / plot.over.clientHeight);
      show({ title: `${names[place]} at ${secs(time)}`, rows: told(place, time, plot) });
    };
    const plot = new uPlot({
      width,
      height,
      padding: [6, 14, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: true, y: false, dist: 6 }, points: { show: false } },
      scales: { x: { time: false, range: (_, low, high) => [low, high] }, y: { range: [0, lines] } },
      axes: [
        axis(2, (_, splits) => splits.map((each) => `${num(each)} s`), { size: 30, space: 60 }),
        axis(3, () => labelled.map((at) => short(names[at])), { grid: { show: false }, splits: () => labelled.map(middle), size: 16 + 7.1 * longest }),
      ],
      series: [{}, { stroke: "transparent", points: { show: false } }],
      hooks: { draw: [draw], setCursor: [follow] },
    }, [[from, data.total], [0, 0]], parent);
    show = tipOf(plot);
    return plot;
  });
  picks.then(() => one.plot && one.plot.redraw());
}

function drawSpans(card, data, spans, picks) {
  const { rows, kinds, starts, ends, rounds, tasks, of } = spans;
  const from = data.shares ? starts.reduce((least, each) => Math.min(least, each), data.total) : 0;
  const paint = (bar) => {
    const fills = SPENT.map(([, fill]) => colour(fill));
    rows.forEach((row, at) => bar(row + 1, starts[at], ends[at], fills[kinds[at]]));
  };
  const told = (place, time, plot) => {
    const near = ((plot.scales.x.max - plot.scales.x.min) * 2) / plot.over.clientWidth;
    let best = -1;
    for (let at = 0; at < rows.length; at += 1) {
      if (rows[at] + 1 !== place || time < starts[at] - near || time > ends[at] + near) continue;
      if (best < 0 || (time >= starts[at] && time <= ends[at])) best = at;
    }
    if (best < 0) return [[colour("--track"), "idle", ""]];
    const [name, fill] = SPENT[kinds[best]];
    const task = data.spans.names[tasks[best]];
    const site = data.spans.sites[of[best]]; // that a worker served
    return [[colour(fill), name, secs(ends[best] - starts[best])], [null, [`round ${rounds[best]}`, task, site].filter(Boolean).join(", "), ""]];
  };
  const keys = [...SPENT.filter((_, at) => kinds.includes(at)), ["idle", "--track"]];
  rowChart(card, data, picks, { from, keys, paint, told });
}

function drawShares(card, data, picks) {
  const { moments } = data.shares;
  const [worked, waited] = [unpack(data.shares.worked, "B"), unpack(data.shares.waited, "B")];
  const long = data.total / moments;
  const last = data.sites.length * moments;
  const most = Math.max(1, worked.subarray(0, last).reduce((high, each) => Math.max(high, each), 0));
  const mostOfServer = Math.max(1, worked.subarray(last).reduce((high, each) => Math.max(high, each), 0));
  const percent = (share) => `${Math.round((100 * share) / 255)} %`;
  const cell = (place, moment) => (place === 0 ? last : (place - 1) * moments) + moment;
  const paint = (bar) => {
    const [own, server] = [colour("--s1"), colour("--s4")];
    for (let place = 0; place <= data.sites.length; place += 1) {
      for (let moment = 0; moment < moments; moment += 1) {
        const share = worked[cell(place, moment)] / (place === 0 ? mostOfServer : most);
        if (share) bar(place, moment * long, (moment + 1) * long, place === 0 ? server : own, share);
      }
    }
  };
  const told = (place, time) => {
    const at = cell(place, Math.max(0, Math.min(moments - 1, Math.floor(time / long))));
    if (place === 0) return [[colour("--s4"), "aggregates and saves", percent(worked[at])]];
    return [
      [colour("--s1"), "works", percent(worked[at])],
      [colour("--wait"), "waits for its task", percent(waited[at])],
      [colour("--track"), "idle", percent(Math.max(0, 255 - worked[at] - waited[at]))],
    ];
  };
  const keys = [[`works, 0 to ${percent(most)} of the time`, "--s1"], [`server aggregates and saves, 0 to ${percent(mostOfServer)}`, "--s4"]];
  rowChart(card, data, picks, { from: 0, keys, paint, told });
}
