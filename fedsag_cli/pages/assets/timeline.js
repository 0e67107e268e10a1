// Who worked, who waited and who was idle: a row for each site, and one for the server.

const SPENT = [
  ["works on a task", "--s1"],
  ["waits for its task", "--s3"],
  ["failed in a task", "--s5"],
  ["server aggregates", "--s4"],
  ["server saves", "--s7"],
];

function timelineSection(data, picks) {
  if (!data.sites) return null;
  const note = [
    "A row for each site. Before it has its task in a round, a site waits: for its start, for a free slot or for its turn. The rest of the time it is idle: it has answered, and the others have not. ",
    hasCharts && "Drag to enlarge a part; double-click to see all again. ",
    data.shares && "Colour depth is the share of each moment. ",
    data.skipped > 0 && `The first ${bytes(data.skipped)} of events.jsonl are not in this picture. `,
  ];
  const card = el("div", { className: "card" });
  const shown = section("timeline", "Timeline", note.filter(Boolean).join(""), card);
  const used = usedTimes(data);
  if (hasCharts) drawTimeline(card, data, picks);
  else card.append(...table([["site"], ["works", secs], ["waits", secs], ["idle", secs]], used));
  return shown;
}

function usedTimes(data) {
  const rows = data.sites.map((site) => [site, 0, 0, 0]);
  if (data.spans) {
    const [row, kind, start, end] = [unpack(data.spans.rows, "h"), unpack(data.spans.kinds, "b"), unpack(data.spans.starts), unpack(data.spans.ends)];
    row.forEach((site, at) => { if (site >= 0) rows[site][kind[at] === 1 ? 2 : 1] += end[at] - start[at]; });
  } else {
    const step = data.total / data.shares.moments / 255;
    for (const [place, text] of [[1, data.shares.worked], [2, data.shares.waited]]) {
      unpack(text, "B").forEach((share, at) => { const row = rows[Math.floor(at / data.shares.moments)]; if (row) row[place] += share * step; });
    }
  }
  for (const row of rows) row[3] = Math.max(0, data.total - row[1] - row[2]);
  return rows;
}

function drawTimeline(card, data, picks) {
  const names = ["server", ...data.sites];
  const spans = data.spans && {
    rows: unpack(data.spans.rows, "h"), kinds: unpack(data.spans.kinds, "b"), starts: unpack(data.spans.starts),
    ends: unpack(data.spans.ends), rounds: unpack(data.spans.rounds, "i"), tasks: unpack(data.spans.tasks, "h"),
  };
  const shares = data.shares && { worked: unpack(data.shares.worked, "B"), waited: unpack(data.shares.waited, "B"), moments: data.shares.moments };
  const kinds = spans ? SPENT.filter((_, at) => spans.kinds.includes(at)) : [SPENT[0], SPENT[1], ["server aggregates and saves", "--s4"]];
  const box = el("div", { className: "plot" });
  card.append(el("div", { className: "legend" }, [...kinds, ["idle", "--track"]].map(([name, paint]) => el("span", {}, el("span", { className: "key box", style: { background: `var(${paint})` } }), name))), box);
  const row = names.length <= 12 ? 26 : names.length <= 40 ? 16 : Math.max(2, 560 / names.length);
  const height = Math.round(names.length * row) + 42;
  const step = Math.max(1, Math.ceil(names.length / (height / 15)));
  const labelled = names.map((_, at) => at).filter((at) => at === 0 || (at - 1) % step === 0);
  const longest = Math.min(16, Math.max(...labelled.map((at) => names[at].length)));
  const short = (name) => (name.length > 16 ? `${name.slice(0, 9)}…${name.slice(-6)}` : name);

  const one = keep(box, (parent, width) => {
    let show = null;
    const paints = SPENT.map(([, paint]) => colour(paint));
    const paint = (plot) => {
      const { ctx, bbox } = plot;
      const right = bbox.left + bbox.width;
      const at = (time) => Math.max(bbox.left, Math.min(right, plot.valToPos(time, "x", true)));
      const tall = bbox.height / names.length;
      const gap = tall > 8 * devicePixelRatio ? tall * 0.18 : 0;
      const bar = (place, from, to, fill, alpha = 1) => {
        const [x, end] = [at(from), at(to)];
        if (end <= bbox.left || x >= right) return;
        ctx.globalAlpha = alpha;
        ctx.fillStyle = fill;
        ctx.fillRect(x, bbox.top + place * tall + gap / 2, Math.max(end - x, 0.75 * devicePixelRatio), tall - gap);
      };
      ctx.save();
      ctx.fillStyle = colour("--track");
      names.forEach((_, place) => ctx.fillRect(bbox.left, bbox.top + place * tall + gap / 2, bbox.width, tall - gap));
      if (spans) {
        for (let n = 0; n < spans.rows.length; n += 1) bar(spans.rows[n] + 1, spans.starts[n], spans.ends[n], paints[spans.kinds[n]]);
      } else {
        const long = data.total / shares.moments;
        names.forEach((_, place) => {
          const base = (place === 0 ? data.sites.length : place - 1) * shares.moments;
          for (let n = 0; n < shares.moments; n += 1) {
            const [worked, waited] = [shares.worked[base + n], shares.waited[base + n]];
            if (waited) bar(place, n * long, (n + 1) * long, paints[1], waited / 255);
            if (worked) bar(place, n * long, (n + 1) * long, place === 0 ? paints[3] : paints[0], worked / 255);
          }
        });
      }
      ctx.globalAlpha = 1;
      ctx.strokeStyle = colour("--ink");
      ctx.lineWidth = devicePixelRatio;
      for (const site of picks.names) {
        const place = data.sites.indexOf(site) + 1;
        if (place) ctx.strokeRect(bbox.left, bbox.top + place * tall - devicePixelRatio, bbox.width, tall + 2 * devicePixelRatio);
      }
      ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
      for (const time of data.resumed) {
        const x = plot.valToPos(time, "x", true);
        if (x < bbox.left || x > right) continue;
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
      ctx.restore();
    };
    const told = (plot) => {
      const { left, top } = plot.cursor;
      if (left < 0 || top < 0) return null;
      const time = plot.posToVal(left, "x");
      const place = Math.min(names.length - 1, Math.floor((top / plot.over.clientHeight) * names.length));
      const title = `${names[place]} at ${secs(time)}`;
      if (shares) {
        const cell = Math.min(shares.moments - 1, Math.floor((time / data.total) * shares.moments)) + (place === 0 ? data.sites.length : place - 1) * shares.moments;
        const share = (value) => `${Math.round((100 * value) / 255)} %`;
        if (place === 0) return { title, rows: [[paints[3], "aggregates and saves", share(shares.worked[cell])]] };
        return { title, rows: [[paints[0], "works", share(shares.worked[cell])], [paints[1], "waits for its task", share(shares.waited[cell])]] };
      }
      const near = (data.total * 2) / plot.over.clientWidth;
      let best = -1;
      for (let n = 0; n < spans.rows.length; n += 1) {
        if (spans.rows[n] + 1 !== place || time < spans.starts[n] - near || time > spans.ends[n] + near) continue;
        if (best < 0 || (time >= spans.starts[n] && time <= spans.ends[n])) best = n;
      }
      if (best < 0) return { title, rows: [[colour("--track"), "idle", ""]] };
      const task = data.spans.names[spans.tasks[best]];
      const rows = [[paints[spans.kinds[best]], SPENT[spans.kinds[best]][0], secs(spans.ends[best] - spans.starts[best])]];
      rows.push([null, `round ${spans.rounds[best]}${task ? `, ${task}` : ""}`, ""]);
      return { title, rows };
    };
    const plot = new uPlot({
      width,
      height,
      padding: [6, 14, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: true, y: false, dist: 6 }, points: { show: false } },
      scales: { x: { time: false, range: (plot, low, high) => [low, high] }, y: { range: [0, names.length] } },
      axes: [
        axis(2, (plot, splits) => splits.map((each) => `${num(each)} s`), { size: 30, space: 60 }),
        axis(3, () => labelled.map((at) => short(names[at])), {
          grid: { show: false },
          splits: () => labelled.map((at) => names.length - at - 0.5),
          size: 16 + 7.1 * longest,
        }),
      ],
      series: [{}, { stroke: "transparent", points: { show: false } }],
      hooks: { draw: [paint], setCursor: [(plot) => show && show(told(plot))] },
    }, [[0, data.total], [0, 0]], parent);
    show = tipOf(plot);
    return plot;
  });
  picks.then(() => one.plot && one.plot.redraw());
}
