"""README.md and docs/: what they claim is tried, with the commands, tables and scripts taken from the pages."""

import functools
import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from runs import FEDSAG, LIMIT_S, fedsag, job, run

import fedsag_cli.client
from fedsag_cli import errors, events
from fedsag_cli.client import FLModel
from fedsag_cli.client.partitioning import WAYS
from fedsag_cli.workflows.scatter_and_gather import ScatterAndGather

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md")), *sorted(EXAMPLES.rglob("*.md"))]
FLAG = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")

# programs that a page names for its reader, and that need a network, another system or minutes
TRIED_BELOW = (
    README,
    *(DOCS / f"{name}.md" for name in ("getting-started", "results", "your-components")),
)  # their commands, and what comes of them
A_SMALL_TABLE = "--rounds 1 --clients 2 --script_args '--train_size 60 --test_size 40 --batch_size 20'"
NOT_RUN_HERE = ("./scripts/bench", "./scripts/demo", ".", "nvflare", "pip")

MY_NET = """
    import torch

    class MyNet(torch.nn.Linear):
        def __init__(self):
            super().__init__(4, 2)
"""
BEFORE_THE_PAGES_SCRIPT = """
    import sys

    import torch
    from my_net import MyNet

    net = MyNet()
    print(sys.argv[1:])

    def evaluate(net):
        return float(net.weight.sum())

    def train(net):
        with torch.no_grad():
            net.weight += 1.0
        return 3
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text and the line it begins at."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command as a reader would copy it, and the exit code the page says it has."""

    text: str
    exit_code: int

    @property
    def program(self) -> str:
        return self.text.split()[0]


def blocks(page: Path, language: str = "") -> list[Block]:
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        line = page.read_text()[: match.start()].count("\n") + 1
        found.append(Block(match[1], match[2], line))
    return [block for block in found if not language or block.language == language]


def commands(block: Block) -> Iterator[Command]:
    """Its lines, joined where one ends with a backslash; `# exit code N` after one is what it ends with."""
    for line in block.text.replace("\\\n", " ").splitlines():
        text, _, comment = line.partition(" #")
        said = re.search(r"exit code (\d+)", comment)
        if text.strip():
            yield Command(" ".join(text.split()), int(said[1]) if said else 0)


def commands_to_run(page: Path) -> list[Command]:
    every = [command for block in blocks(page, "sh") for command in commands(block)]
    return [command for command in every if command.program not in NOT_RUN_HERE]


def tables(page: Path) -> Iterator[list[list[str]]]:
    """Each table of a page: its rows, the heading first, without the line below that."""
    for match in re.finditer(r"(?:^\|.*\|\n)+", page.read_text(), re.MULTILINE):
        rows = [[cell.strip() for cell in row.strip().strip("|").split(" | ")] for row in match[0].splitlines()]
        yield [rows[0], *rows[2:]]


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the page's table whose first column has that heading."""
    [found] = [rows for rows in tables(page) if rows[0][0] == heading]
    return found[1:]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def first_column(page: Path, heading: str) -> list[str]:
    return [name for row in table(page, heading) for name in names(row[0])]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Those that headings have on GitHub and in MkDocs."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() for text in headings]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()) for text in plain}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def copy_commands(page: Path, folder: Path, *, say: dict[str, str] | None = None) -> str:
    """Run the page's `sh` blocks one after the other in `folder`, as somebody would who copies them from the top.

    A block is one shell: a variable it sets is there in its later lines. `say` replaces texts, such as a path.
    """
    my_code = folder / "my_code"
    if not (my_code / "train.py").exists():
        [script, *_] = [block.text for block in blocks(README, "python")]
        my_code.mkdir(exist_ok=True)
        (my_code / "my_net.py").write_text(textwrap.dedent(MY_NET))
        (my_code / "train.py").write_text(textwrap.dedent(BEFORE_THE_PAGES_SCRIPT) + script)
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FEDSAG_HOME")}
    env |= {"HOME": str(folder), "PATH": os.pathsep.join([str(Path(FEDSAG).parent), env["PATH"]])}
    printed = ""
    for block in blocks(page, "sh"):
        lines = []
        for command in (command for command in commands(block) if command.program not in NOT_RUN_HERE):
            lines += [
                command.text,
                f'code=$?; [ $code = {command.exit_code} ] || {{ echo "exit code $code"; exit 99; }}',
            ]
        text = "\n".join(lines)
        for before, after in (say or {}).items():
            text = text.replace(before, after)
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, f"{name_of(page)}:{block.line}\n{text}\n{done.stdout}"
        printed += done.stdout
    return printed


@functools.cache
def flags_of(command: str) -> set[str]:
    """Those at the beginning of a line of a command's --help."""
    shown = fedsag(*command.split(), "--help", cwd=ROOT, env={"COLUMNS": "200"})
    assert shown.code == 0, shown
    return {flag for line in re.findall(r"^  (-.*?)(?:  |$)", shown.out, re.MULTILINE) for flag in FLAG.findall(line)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder in which the commands of the page about results were run."""
    folder = tmp_path_factory.mktemp("results")
    copy_commands(DOCS / "results.md", folder, say={"num_rounds=20": "num_rounds=1", "--split": "--limit 60 --split"})
    return folder


@pytest.mark.slow
def test_what_the_readme_says_to_copy_runs_and_prints_a_table_of_the_shape_it_shows(tmp_path):
    printed = copy_commands(README, tmp_path)

    [shown] = [block.text for block in blocks(README, "text")]
    heading, *rows = [" ".join(line.split()) for line in shown.splitlines()]
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    begins = lines.index(heading)
    for line, row in zip(lines[begins + 1 :], rows, strict=False):
        assert [re.sub(r"\d+", "0", word) for word in line.replace(".", "").split()] == [
            re.sub(r"\d+", "0", word) for word in row.replace(".", "").split()
        ]
    report = json.loads((tmp_path / "workspaces" / "mine" / "report.json").read_text())
    assert (report["ok"], report["num_rounds"], len(report["sites"]), report["slots"]) == (True, 10, 4, 2)
    assert report["rounds"][0]["num_steps"] == {f"site-{number}": 3.0 for number in range(1, 5)}
    for path in [name for name in first_column(README, "file in the workspace") if "best" not in name]:
        assert (tmp_path / "workspaces" / "mine" / path).is_file()
    again = fedsag("simulator", "jobs/mine", "-w", "workspaces/mine", "-n", 4, "-t", 2, "--resume", cwd=tmp_path)
    assert again.code == 0, again


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in TRIED_BELOW and any(commands_to_run(page))], ids=name_of
)
def test_what_a_page_says_to_copy_runs_and_ends_with_the_exit_codes_it_says(tmp_path, page):
    if page.parent.name == "lightning":
        pytest.importorskip("lightning")
    folder = tmp_path
    if page.is_relative_to(EXAMPLES):
        shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        folder = tmp_path / page.parent.relative_to(ROOT)
    say = {
        "/tmp/fedsag": str(tmp_path / "fedsag"),
        "python ../data/download.py": "true",  # which needs a network
        "python ../cifar10/data/download.py": "true",
        "python compare.py": f"python compare.py --workspace {tmp_path} --only scaffold,median {A_SMALL_TABLE}",
        "code/dl/train.py": "code/dl/train.py --limit 60",
        "--batch_size 6": "--batch_size 6 --limit 60",
    }

    copy_commands(page, folder, say=say)


@pytest.mark.slow
def test_the_tutorial_trains_a_model_that_its_last_lines_read(tmp_path):
    page = DOCS / "getting-started.md"
    copy_commands(page, tmp_path)

    [block] = blocks(page, "python")
    text = block.text + "\nprint(sum(value.numel() for value in state_dict.values()))"
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    report = json.loads((tmp_path / "workspaces" / "first" / "report.json").read_text())

    assert done.stdout == "62006\n", done.stderr
    assert report["final_metrics"], "the tutorial says how to have the final model measured"


@pytest.mark.slow
def test_the_components_of_the_page_work_in_a_job_and_its_test_passes(tmp_path):
    page = DOCS / "your-components.md"
    (tmp_path / "my_code").mkdir()
    for name, text in re.findall(r"`(my_code/\w+\.py)`.*?```python\n(.*?)```", page.read_text(), re.DOTALL):
        (tmp_path / name).write_text(text)

    copy_commands(page, tmp_path)
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_median.py"],
        cwd=tmp_path / "my_code",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    clip_norm = runpy.run_path(str(tmp_path / "my_code" / "clip_norm.py"))["ClipNorm"](clip_norm=5)
    clipped = clip_norm.process(FLModel(params={"a": torch.tensor([6.0]), "b": torch.tensor([8.0])}))

    assert tested.returncode == 0, tested.stdout
    assert {name: value.item() for name, value in clipped.params.items()} == {"a": 3.0, "b": 4.0}


@pytest.mark.slow
def test_the_lines_that_log_a_curve_log_it_in_a_script_that_has_them(tmp_path):
    [lines] = [block.text for block in blocks(DOCS / "curves.md", "python")]
    within = "loss, global_step = 0.5, 3\n" + lines + "flare.send(flare.FLModel(params=model.params))"
    script = "\n".join(
        [
            "import fedsag_cli.client as flare",
            "flare.init()",
            "while flare.is_running():",
            "    model = flare.receive()",
            textwrap.indent(within, "    "),
        ]
    )

    ran = run(job(tmp_path / "my_job", script), "-n", 2, "-t", 2)

    assert ran.code == 0, ran
    logged = [(told["site"], told["values"], told["step"]) for told in ran.told("ValuesLogged")]
    assert logged.count(("site-1", {"train_loss": 0.5}, 3)) == 2


def test_the_lines_for_fedprox_add_its_term_to_the_loss():
    net = torch.nn.Linear(2, 1)
    sent = FLModel(params={name: value + 1 for name, value in net.state_dict().items()}, meta={"fedprox_mu": 0.1})
    [lines] = [block.text for block in blocks(DOCS / "your-script.md", "python") if "fedprox" in block.text]
    given = {"net": net, "input_model": sent, "images": torch.ones(3, 2), "labels": torch.ones(3, 1)}
    given["criterion"] = torch.nn.functional.mse_loss

    exec(lines, given)

    assert given["proximal"].mu == 0.1
    assert given["loss"] == given["criterion"](net(given["images"]), given["labels"]), "it is nought where they agree"


@pytest.mark.usefixtures("fresh_process")
def test_without_a_run_a_script_prints_what_the_page_shows_and_its_lines_for_params_and_partitions_work(
    tmp_path, monkeypatch, capsys
):
    page = DOCS / "your-script.md"
    monkeypatch.chdir(tmp_path)
    [loading] = [block.text for block in blocks(page, "python") if "if input_model.params" in block.text]
    [dividing] = [block.text for block in blocks(page, "python") if "flare.partition(" in block.text]
    given = {"flare": fedsag_cli.client, "data": torch.rand(12, 2), "labels": torch.arange(12) % 3}

    exec(dividing + loading, given | {"net": None})
    fedsag_cli.client.send(FLModel(params={"w": 1.0}))

    [said] = capsys.readouterr().err.splitlines()
    assert said.replace(str(tmp_path), "/home/me/my_code") in page.read_text()
    told = json.loads((tmp_path / "fedsag_local" / "answer.json").read_text())
    assert told["num_samples"] == 12
    assert {"fedsag_local/model.npz", "fedsag_local/answer.json"} <= set(first_column(page, "file"))


def test_the_table_of_partitions_has_every_way():
    ways = [names(row[0])[0].strip('"') for row in table(DOCS / "your-script.md", "`how`")]

    assert ways == [*WAYS]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_script_the_project_names_on_a_page_is_there(page):
    for name in re.findall(r"(?<![\w/])(?:\./)?((?:scripts|examples)/[\w/.-]*\w)", page.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_block_compiles(page):
    for block in blocks(page, "python"):
        compile(block.text, f"{name_of(page)}:{block.line}", "exec")


def test_the_readme_and_the_page_about_scripts_show_the_same_script():
    [in_readme] = [block.text for block in blocks(README, "python")]

    assert blocks(DOCS / "your-script.md", "python")[0].text == in_readme


def test_the_readme_fits_on_two_screens():
    assert len(README.read_text().splitlines()) <= 110


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_page_that_is_there_and_to_a_heading_it_has(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        assert not target.startswith(("/", "http://")), target
        if target.startswith(("https://arxiv.org/abs/", "https://doi.org/")):
            continue  # a paper
        path, _, anchor = target.partition("#")
        leads_to = (page.parent / path).resolve() if path else page
        assert leads_to.is_file(), target
        assert leads_to.is_relative_to(DOCS if page.is_relative_to(DOCS) else ROOT), target
        assert not anchor or anchor in anchors(leads_to), target


def test_the_site_lists_exactly_the_pages_there_are():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = [path for entry in site["nav"] for path in entry.values()]

    assert site["docs_dir"] == "docs"
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
    for heading, path in ((heading, path) for entry in site["nav"][1:] for heading, path in entry.items()):
        assert (DOCS / path).read_text().startswith(f"# {heading}\n")


def test_the_index_and_the_readme_lead_to_every_page():
    pages = {path.name for path in DOCS.rglob("*.md")}

    assert set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text())) == pages - {"index.md"}
    assert set(re.findall(r"\]\(docs/([\w-]+\.md)\)", README.read_text())) == pages


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=name_of)
def test_a_page_begins_with_a_heading_and_a_sentence_that_says_what_it_answers(page):
    heading, nothing, sentence, *_ = page.read_text().splitlines()

    assert heading.startswith("# ")
    assert nothing == ""
    assert re.match(r"This page (says|shows|lists|explains) ", sentence)


@pytest.mark.parametrize(
    ("words", "page", "heading"),
    [
        ("simulator", "simulator.md", "flag"),
        ("watch", "simulator.md", "flag of `fedsag watch`"),
        ("job create", "jobs-and-templates.md", "flag of `fedsag job create`"),
        ("job export", "coming-from-nvflare.md", "flag of `fedsag job export`"),
    ],
)
def test_the_table_of_flags_has_every_flag_of_the_command_and_no_other(words, page, heading):
    documented = set(first_column(DOCS / page, heading))

    def spelled_with_underscores(flags):
        return {re.sub(r"(?<=\w)-", "_", flag) for flag in flags} - {"-h", "--help"}

    assert spelled_with_underscores(documented) == spelled_with_underscores(flags_of(words))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_flag_of_a_fedsag_command_on_a_page_exists(page):
    texts = [command.text for block in blocks(page, "sh") for command in commands(block)]
    texts += names(prose(page))
    for text in texts:
        if words := re.match(r"fedsag (config|job [a-z_-]+|simulator)\b", text):
            given = {word for word in shlex.split(text) if re.fullmatch(FLAG, word)}
            assert given <= flags_of(words[1]) | {"-h"}, text


def test_the_table_of_templates_names_exactly_those_that_ship():
    assert sorted(first_column(DOCS / "jobs-and-templates.md", "template")) == sorted(
        path.name for path in (ROOT / "job_templates").iterdir() if path.is_dir()
    )


def test_the_table_of_exit_codes_names_exactly_those_that_errors_have():
    documented = {int(row[0]) for row in table(DOCS / "failures-and-resume.md", "exit code")}

    def below(kind):
        return {kind, *(other for direct in kind.__subclasses__() for other in below(direct))}

    codes = {kind.exit_code for kind in below(errors.FedsagError) if kind.__module__ == errors.__name__}
    interrupted = {errors.Interrupted(number).exit_code for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    assert documented == {0} | codes | interrupted
    in_the_readme = re.search(r"The exit codes: (.*?)\.\n", README.read_text(), re.DOTALL)
    assert {int(number) for number in re.findall(r"\d+", in_the_readme[1])} == documented


def test_the_table_of_the_workflow_has_every_argument_and_its_default():
    documented = {names(row[0])[0]: row[1] for row in table(DOCS / "jobs-and-templates.md", "argument")}
    there = dict(inspect.signature(ScatterAndGather).parameters)
    components = {name for name in there if f"{name}_id" in documented}

    assert components == {"aggregator", "persistor", "model_selector", "updater", "sampler"}
    assert set(documented) == {f"{name}_id" if name in components else name for name in there}
    for name, said in documented.items():
        default = there[name.removesuffix("_id")].default
        if isinstance(default, bool | int | float | str):
            assert said.strip("`") == str(default).removesuffix(".0").replace("False", "false")


def test_the_tables_of_the_client_api_have_all_of_it():
    text = (DOCS / "your-script.md").read_text()
    functions = {name.partition("(")[0] for name in first_column(DOCS / "your-script.md", "function")}

    assert functions <= set(re.findall(r"`(flare\.\w+)", text))
    assert set(re.findall(r"`flare\.(\w+)", text)) - {"train", "evaluate", "patch"} == set(fedsag_cli.client.__all__)


def test_the_table_of_events_has_every_kind():
    kinds = {kind.__name__ for kind in events.Event.__subclasses__()}

    assert set(first_column(DOCS / "results.md", "kind")) == kinds


@pytest.mark.slow
def test_the_files_the_page_lists_are_there_after_a_run(results):
    numpy_files = [name for name in first_column(DOCS / "results.md", "file") if name.endswith(".npy")]
    others = [name for name in first_column(DOCS / "results.md", "file") if name not in numpy_files]
    assert fedsag("job", "create", "-w", "sag_np", cwd=results).code == 0
    assert fedsag("simulator", "-n", 2, "-t", 2, "-w", "NP", cwd=results).code == 0

    for name in others:
        path = results / name.replace("<site>", "site-1")
        assert path.is_dir() if name.endswith("/") else path.is_file(), path
    for name in numpy_files:
        assert (results / name.replace("WS/", "NP/", 1)).is_file()
    assert len(others) + len(numpy_files) > 8


@pytest.mark.slow
def test_the_tables_of_the_report_have_every_field_and_the_events_are_among_the_kinds(results):
    report = json.loads((results / "WS" / "report.json").read_text())
    told = {json.loads(line)["event"] for line in (results / "WS" / "events.jsonl").read_text().splitlines()}
    of_report, of_round = [rows[1:] for rows in tables(DOCS / "results.md") if rows[0][0] == "field"]

    assert {name for row in of_report for name in names(row[0])} == set(report)
    assert {name for row in of_round for name in names(row[0])} == set(report["rounds"][0])
    assert told <= set(first_column(DOCS / "results.md", "kind"))


def test_the_extras_the_pages_install_exist():
    declared = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))

    extras = {name for page in PAGES for name in re.findall(r"fedsag\[(\w+)\]", page.read_text())}
    assert {"tensorboard", "mlflow", "wandb", "lightning"} <= extras <= declared


def test_the_source_archive_takes_the_pages_along():
    text = (ROOT / "pyproject.toml").read_text()
    [included] = re.findall(r"^include = \[(.*)\]$", text, re.MULTILINE)

    assert {'"docs"', '"mkdocs.yml"', '"README.md"'} <= set(included.split(", "))
