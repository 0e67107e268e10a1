// The page is put together, and follows the theme.

const THEMES = ["auto", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");

function stored(value) {
  try {
    if (value !== undefined) localStorage.setItem("fedsag-theme", value);
    return localStorage.getItem("fedsag-theme");
  } catch {
    return null; // a browser may refuse it to files
  }
}

let theme = THEMES.includes(stored()) ? stored() : "auto";

function paintTheme(button) {
  document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
  button.textContent = theme === "auto" ? "◐ auto" : theme === "light" ? "☀ light" : "☾ dark";
}

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const button = el("button", { className: "theme", type: "button", title: "light, dark, or as the system has it" });
  paintTheme(button);
  const { title, blocks } = { run: runPage, comparison: comparisonPage, sweep: sweepPage }[data.kind](data);
  const main = el("main", {}, blocks.flat());
  const links = [...main.querySelectorAll("section")].map((each) => el("a", { href: `#${each.id}` }, each.querySelector("h2").textContent));
  const page = document.getElementById("page");
  page.append(el("div", { className: "bar" }, el("span", { className: "brand" }, "fedsag"), fadedSides(el("nav", {}, links)), button), main);
  drawAll();
  if (hasCharts) followWidth();
  const again = () => { paintTheme(button); drawAll(); };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    stored(theme);
    again();
  });
  dark.addEventListener("change", again);
  document.title = `${title} · fedsag`;
}

start();
