"""Pages in a browser: they are drawn, they complain of nothing, and a reader finds values in them."""

import shutil

import pytest
from reports import EVIL, a_round, logged, started, task

from fedsag_cli import events, pages
from fedsag_cli.events import Failure
from fedsag_cli.report import PrivacyReport, Report, RoundReport, SiteFailure, TableReport

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Open a page as a reader does, and hold it to what every page promises."""
    said, asked, contexts = [], [], []

    def open_(path, width=1280, dark=False):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.fixture
def small(tmp_path):
    """The page of two sites and five rounds, with something of everything."""
    history = [started(100.0)]
    rounds = []
    for number in range(5):
        at = 101.0 + 4 * number
        history += [
            events.RoundStarted(at=at, round_num=number, first_round=0, num_rounds=5, sites=["a", "b"]),
            task(events.TaskSent, at, "a", number, size=10),
            logged(at + 0.5, {"loss": 1.0 / (1 + number)}, number),
            task(events.ReplyArrived, at + 1.0, "a", number),
            task(events.TaskSent, at + 1.0, "b", number, size=10),
            task(events.ReplyArrived, at + 3.0, "b", number),
        ]
        own = {"a": {"accuracy": 10.0 * number}, "b": {"accuracy": 10.0 * number + 5.0}}
        spent = PrivacyReport(epsilon=1.0 + number, delta=1e-5, mechanism="for one client")
        rounds.append(a_round(number, own, wait_s=3.0, total_s=4.0, bytes_sent=20, bytes_received=20, privacy=spent))
    (tmp_path / "events.jsonl").write_bytes(b"".join(map(events.to_line, history)))
    report = Report(
        job="small",
        ok=True,
        sites=["a", "b"],
        rounds=rounds,
        tables=[TableReport(title="what came out", columns=["site", "size"], rows=[["a", 41.5]])],
        settings={"num_rounds": 5, "lr": 0.1},
        changed={"lr": 0.2},
        times={"run_finished_s": 21.0, "server_ready_s": 1.0},
    )
    pages.write(report, tmp_path / "events.jsonl", tmp_path / "report.html")
    return tmp_path / "report.html"


def hover(page, chart, across, down=0.5):
    """The text beside the cursor, at a part of the chart's width and height."""
    over = page.locator(f"{chart} .u-over").first
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down)
    return page.locator(f"{chart} .tip").first.inner_text()


def test_a_cursor_finds_the_values_of_a_round_and_what_a_site_did(small, opened):
    page = opened(small)

    told = hover(page, "#metrics", 0.5)
    assert told.split() == ["round", "2", "mean", "22.5", "b", "25", "a", "20"]
    assert "works on a task\n2 s\nround 0, train" in hover(
        page, "#timeline", 3.0 / 20.0, 0.85
    )  # b, of rows: server, a, b
    assert "round 3" in hover(page, "#stages .cards", 0.68)
    assert "epsilon\n5" in hover(page, "#privacy", 0.999)
    assert "step 4\na\n0.2" in hover(page, "#logged", 0.999)


def test_every_part_of_a_run_is_on_its_page(small, opened):
    page = opened(small)

    heads = [head.inner_text() for head in page.locator("h2").all()]
    assert heads == [
        "Metrics",
        "Result tables",
        "Timeline",
        "Time and bytes",
        "Logged by the scripts",
        "Privacy",
        "Sites",
        "Settings",
        "Details",
    ]
    assert page.locator("tr.changed").inner_text().split() == ["lr", "0.1", "0.2"]
    assert page.locator("#tables td").all_inner_texts() == ["a", "41.5"]
    assert page.locator("canvas").count() == 6


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_a_page_without_scrolling_sideways_in_light_and_dark(small, opened, dark):
    page = opened(small, width=390, dark=dark)

    assert page.evaluate("document.documentElement.scrollWidth") == 390
    light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0] > 128")
    assert light is not dark
    page.locator(".theme").click()  # from the system's to light
    page.locator(".theme").click()  # to dark
    assert page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0] < 128")


def test_text_of_others_is_shown_as_text(tmp_path, opened):
    failure = Failure(cause=f"a {EVIL}", log_tail=[f"<b>log</b> {EVIL}"])
    report = Report(
        job=EVIL,
        cause=EVIL,
        sites=[EVIL, "b"],
        rounds=[a_round(at, {EVIL: {EVIL: 1.0 + at}, "b": {EVIL: 2.0}}) for at in range(3)],
        failures={EVIL: SiteFailure(round_num=0, task=EVIL, failure=failure)},
        tables=[TableReport(title=EVIL, columns=[EVIL], rows=[[EVIL]])],
        settings={EVIL: EVIL},
    )
    history = [
        logged(1.0, {EVIL: 1.0}, site=EVIL),
        task(events.TaskSent, 1.0, EVIL, size=1),
        task(events.ReplyArrived, 2.0, EVIL),
    ]
    (tmp_path / "events.jsonl").write_bytes(b"".join(map(events.to_line, history)))
    pages.write(report, tmp_path / "events.jsonl", tmp_path / "report.html")
    pages.comparison([report, report], tmp_path / "compared.html", [EVIL, "x"])

    page = opened(tmp_path / "report.html")

    assert page.locator("pre").inner_text() == f"<b>log</b> {EVIL}"
    assert EVIL in hover(page, "#metrics", 0.5)
    assert page.locator("img").count() == 0
    assert opened(tmp_path / "compared.html").locator("img").count() == 0


def test_of_many_sites_a_reader_finds_one(tmp_path, opened):
    names = [f"site-{number}" for number in range(200)]
    rounds = [
        a_round(at, {name: {"accuracy": at + number / 1000.0} for number, name in enumerate(names)})
        for at in range(500)
    ]
    pages.write(Report(job="many", sites=names, rounds=rounds), tmp_path / "none.jsonl", tmp_path / "report.html")
    page = opened(tmp_path / "report.html")
    assert "site-77" not in hover(page, "#metrics", 0.5)

    page.locator("#metrics input").first.fill("site-77")
    page.keyboard.press("Enter")

    told = hover(page, "#metrics", 0.9999).split("\n")
    assert told[:3] == ["round 499", "site-77", "499.08"]
    assert told[told.index("highest: site-199") + 1] == "499.2"


def test_of_thousands_of_sites_a_reader_sees_quantiles_and_finds_the_worst(tmp_path, opened):
    names = [f"site-{number}" for number in range(3000)]
    by_site = {name: {"accuracy": number / 2999} for number, name in enumerate(names)}
    report = Report(job="many", sites=names, rounds=[a_round(at, by_site) for at in range(3)])
    pages.write(report, tmp_path / "none.jsonl", tmp_path / "report.html")
    page = opened(tmp_path / "report.html", width=390)

    page.locator("#metrics input").first.fill("site-3")
    page.keyboard.press("Enter")

    told = hover(page, "#metrics", 0.9999).split("\n")
    assert told[:3] == ["round 2", "site-3", "0.0010003"]
    assert {"highest: site-2999", "90 %", "median", "10 %", "lowest: site-0"} <= set(told)
    assert "Of 3,000 sites that took part, " in page.locator("#sites").inner_text()
    assert page.locator("#sites table").first.locator("tr").count() == 6
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def painted(page, *colours):
    """How many pixels of the first metric's chart have each of these colours of the style."""
    return page.evaluate(
        """(names) => {
            const canvas = document.querySelector("#metrics canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return names.map((name) => {
                const wanted = colour(name).slice(1).match(/../g).map((each) => parseInt(each, 16));
                let found = 0;
                for (let at = 0; at < data.length; at += 4) found += wanted.every((value, n) => data[at + n] === value);
                return found;
            });
        }""",
        colours,
    )


def test_a_value_that_no_line_reaches_is_a_point(tmp_path, opened):
    """One round of twelve sites, as after a failure in the second: without a point, the chart is empty."""
    own = {f"site-{number}": {"accuracy": float(number)} for number in range(12)}
    pages.write(Report(sites=list(own), rounds=[a_round(0, own)]), tmp_path / "none.jsonl", tmp_path / "report.html")

    page = opened(tmp_path / "report.html")

    assert min(painted(page, "--s1", "--s2", "--s3")) > 0  # mean, highest and lowest


def test_a_metric_of_every_second_round_has_a_curve_and_one_without_a_finite_value_says_so(tmp_path, opened):
    def own(at):
        return {"a": {"loss": 1.0 + at}, "b": {"loss": 3.0}} if at % 2 else {"a": {"never": float("nan")}}

    report = Report(sites=["a", "b"], rounds=[a_round(at, own(at)) for at in range(60)])
    pages.write(report, tmp_path / "none.jsonl", tmp_path / "report.html")

    page = opened(tmp_path / "report.html")

    assert page.locator("#metrics h3").all_inner_texts()[0].startswith("never")
    assert page.locator("#metrics .quiet").inner_text() == "No value is finite."
    assert min(painted(page, "--ink")) > 100  # the curve of the mean


def test_a_run_without_a_complete_round_has_no_empty_charts(tmp_path, opened):
    begun = RoundReport(workflow="sag", round_num=0, asked=["a"], failed={"a": Failure(cause="boom")})
    report = Report(sites=["a"], rounds=[begun], times={"run_finished_s": 3.0, "server_ready_s": 1.0})
    pages.write(report, tmp_path / "none.jsonl", tmp_path / "report.html")

    page = opened(tmp_path / "report.html")

    assert "The whole run" in page.locator("#stages").inner_text()
    assert page.locator("canvas").count() == 0


def test_a_page_without_the_library_has_the_same_numbers_in_tables(tmp_path, small, opened, monkeypatch):
    monkeypatch.setattr(pages.document, "library", lambda: None)
    report = Report(sites=["a"], rounds=[a_round(0, {"a": {"accuracy": 12.25}})])
    pages.write(report, small.with_name("events.jsonl"), tmp_path / "report.html")

    page = opened(tmp_path / "report.html")

    assert page.locator("#metrics td").all_inner_texts() == ["0", "12.25", "1 of 1", "0 s"]
    assert page.locator("#timeline tr").nth(2).inner_text().split("\t") == ["b", "10 s", "5 s", "5 s"]
    assert pages.INSTALL in page.locator(".no-charts").inner_text()


def test_runs_that_are_compared_have_their_curves_in_one_chart(tmp_path, opened):
    def run(seed, values):
        return Report(job="j", seed=seed, rounds=[a_round(at, {"a": {"x": each}}) for at, each in enumerate(values)])

    pages.comparison([run(1, [1.0, 2.0, 3.0]), run(2, [5.0, 6.0])], tmp_path / "compared.html", ["11", "12"])
    page = opened(tmp_path / "compared.html")

    assert hover(page, "#metrics", 0.5).split() == ["round", "1", "11", "2", "12", "6"]
    assert page.locator("#settings td").all_inner_texts() == ["seed", "1", "2"]
    assert page.locator("#numbers td").all_inner_texts() == ["x", "best", "3", "6 best", "x", "last", "3", "6"]
    assert page.locator("#runs td").all_inner_texts()[1] == "3"


def test_sites_whose_curves_would_hide_each_other_are_one_curve_and_it_says_so(tmp_path, opened):
    own = {f"site-{number}": {"accuracy": 1.0} for number in range(40)}
    two = {"a": {"loss": 2.0}, "b": {"loss": 3.0}, "c": {"loss": 2.0}}
    pages.write(Report(sites=list(own), rounds=[a_round(0, own)]), tmp_path / "none", tmp_path / "one.html")
    pages.write(Report(sites=list(two), rounds=[a_round(0, two)]), tmp_path / "none", tmp_path / "two.html")

    page, other = opened(tmp_path / "one.html"), opened(tmp_path / "two.html")

    assert page.locator("#metrics .legend").inner_text() == "all 40 sites are equal"
    assert other.locator("#metrics .legend button").all_inner_texts() == ["a, c (equal)", "b", "mean"]


def test_a_table_that_is_wider_than_a_phone_fades_at_the_side_where_there_is_more(tmp_path, opened):
    own = {"a": {f"metric number {number}": 1.0 for number in range(6)}}
    pages.write(Report(sites=["a"], rounds=[a_round(0, own)]), tmp_path / "none", tmp_path / "report.html", 27)

    page = opened(tmp_path / "report.html", width=390)

    box = page.locator("#sites .scroll")
    page.locator(
        "#sites .scroll.more-right:not(.more-left)"
    ).wait_for()  # a policy of the page forbids a poll by script
    box.evaluate("box => box.scrollLeft = box.scrollWidth")
    page.locator("#sites .scroll.more-left:not(.more-right)").wait_for()
    assert "run 27" in page.locator("header").inner_text()
