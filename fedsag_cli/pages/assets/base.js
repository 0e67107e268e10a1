"use strict";
// What every part of a page is made of. Text of others is set as text only: never as HTML.

const hasCharts = typeof uPlot === "function";

function el(tag, options, ...inside) {
  const made = document.createElement(tag);
  const { on, style, data, ...rest } = options || {};
  for (const [name, value] of Object.entries(rest)) made[name] = value;
  for (const [name, value] of Object.entries(style || {})) made.style.setProperty(name, value);
  for (const [name, value] of Object.entries(data || {})) made.dataset[name] = value;
  for (const [name, value] of Object.entries(on || {})) made.addEventListener(name, value);
  made.append(...inside.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return made;
}

const KINDS = { f: Float32Array, i: Int32Array, h: Int16Array, b: Int8Array, B: Uint8Array };

function unpack(text, kind = "f") {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new KINDS[kind](bytes.buffer);
}

// numbers as a reader wants them

function num(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  const short = Number(value.toPrecision(5));
  return short.toLocaleString("en-US", { maximumFractionDigits: 8 });
}

function secs(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 s";
  if (value < 0.0995) return `${num(Number((value * 1000).toPrecision(2)))} ms`;
  if (value < 59.95) return `${Number(value.toPrecision(3))} s`;
  const whole = Math.round(value);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 999.5 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${Number(value.toPrecision(3))} ${units[at]}`;
}

function count(value, noun) {
  return `${value.toLocaleString("en-US")} ${noun}${value === 1 ? "" : "s"}`;
}

function few(names, most = 6, all = names.length) {
  const rest = all - Math.min(most, names.length);
  return names.slice(0, most).join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}

function day(began) {
  return began ? new Date(began * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : "";
}

// colours come from the style, which knows light and dark

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// of a band; a dark page needs more of the colour
function faded(name, percent) {
  return `color-mix(in srgb, ${colour(name)} ${percent * Number(colour("--band"))}%, transparent)`;
}

const SERIES = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7", "--s8"];

// a box that scrolls sideways fades at the side where there is more
function fadedSides(box) {
  const look = () => {
    box.classList.toggle("more-left", box.scrollLeft > 2);
    box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  };
  box.addEventListener("scroll", look, { passive: true });
  const watcher = new ResizeObserver(look);
  watcher.observe(box);
  for (const each of box.children) watcher.observe(each);
  return box;
}

// blocks

function section(id, title, lead, ...inside) {
  return el("section", { id }, el("h2", {}, title), lead && el("p", { className: "lead" }, lead), ...inside);
}

function withoutCharts(more) {
  const why = `This page has no charts: the package that draws them was not installed when it was made. ${more}`;
  return !hasCharts && el("p", { className: "no-charts" }, why, el("code", {}, "pip install 'fedsag[charts]'"));
}

function tile(name, value, note, isBad) {
  const text = el("div", { className: isBad ? "note bad" : "note" }, note || "");
  return el("div", { className: "tile" }, el("div", { className: "name", title: name }, name), el("div", { className: "value" }, value), text);
}

function definitions(pairs) {
  const shown = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return el("dl", {}, shown.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

const FIRST_ROWS = 60;

// columns: [name, format] (a format makes it a column of numbers); a row: a list of values, perhaps with `changed`
function table(columns, rows, options = {}) {
  const body = el("tbody");
  let shown = rows;
  let all = false;
  let order = null;
  const more = el("button", { className: "more", type: "button", on: { click: () => { all = true; fill(); } } });
  const cell = (value, [name, format]) => {
    if (value instanceof Node) return el("td", {}, value);
    if (name === "setting") return el("td", {}, el("code", {}, value));
    if (format) return el("td", { className: "number" }, format(value));
    const text = value === null || value === undefined ? "" : String(value);
    return el("td", { className: text.length > 40 ? "long" : "" }, text);
  };
  const fill = () => {
    const some = all ? shown : shown.slice(0, FIRST_ROWS);
    body.replaceChildren(...some.map((row) => el("tr", { className: row.changed ? "changed" : "" }, columns.map((column, at) => cell(row[at], column)))));
    more.hidden = some.length === shown.length;
    more.textContent = `show all ${count(shown.length, "row")}`;
  };
  const sort = (at) => {
    const up = order === at + 1 ? -1 : 1;
    order = up * (at + 1);
    const number = (value) => typeof value === "number" && !Number.isNaN(value);
    shown = [...shown].sort((a, b) => {
      if (number(a[at]) && number(b[at])) return up * (a[at] - b[at]);
      if (number(a[at]) !== number(b[at])) return number(a[at]) ? -1 : 1;
      return up * String(a[at] ?? "").localeCompare(String(b[at] ?? ""), "en", { numeric: true });
    });
    fill();
  };
  const heads = columns.map(([name, format], at) => el("th", { className: format ? "number" : "", title: "sort by this column", on: { click: () => sort(at) } }, name));
  const find = el("input", { className: "find", type: "search", placeholder: options.find || "find …", ariaLabel: options.find || "find" });
  find.addEventListener("input", () => {
    const wanted = find.value.toLowerCase();
    const text = (value) => (value instanceof Node ? value.textContent : String(value ?? ""));
    shown = rows.filter((row) => row.some((value) => text(value).toLowerCase().includes(wanted)));
    fill();
  });
  fill();
  const whole = fadedSides(el("div", { className: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, heads)), body), more));
  return rows.length > 20 ? [el("div", { className: "tools" }, find), whole] : [whole];
}
