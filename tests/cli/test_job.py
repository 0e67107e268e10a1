"""`fedsag job …`, as a user types it."""

import json
import os
import pty
import re
import subprocess
import sys

import forked
import pytest

from fedsag_cli.cli.overrides import fold
from fedsag_cli.errors import UsageError
from fedsag_cli.job import Job
from fedsag_cli.job.config import hocon

MAIN = "import sys; from fedsag_cli.cli import main; sys.argv[0] = 'fedsag'; main()"
TUTORIAL = [
    "-f", "meta.conf", "min_clients=2",
    "-f", "config_fed_client.conf", "app_script=train.py",
    "app_config=--batch_size 6 --dataset_path {CIFAR10_ROOT} --num_workers 2",
    "-f", "config_fed_server.conf", "num_rounds=5",
]  # fmt: skip


WRONG_ARGUMENTS = [
    ("num_clients=0", "num_clients must be a number from 1 on, not 0"),
    ("patience=0", "patience must be a number from 1 on, not 0"),
    ("patience=3", "patience needs stop_cond, which is not given"),
    ("fedprox_mu=-1", "fedprox_mu must be a number from 0 on, not -1"),
    ("stop_cond=nonsense", "stop_cond must be a metric, one of >= <= > < =, and a number"),
    ("num_rounds=0", "num_rounds must be a number from 1 on, not 0"),
    (
        "workflows[0].args={aggregator_id = aggregator, persistor_id = persistor, num_rounds = 0}",
        "num_rounds must be a",
    ),
]


@pytest.fixture
def fedsag(tmp_path):
    """Runs the command, piped, with a home of its own."""

    def fedsag(*words, cwd=tmp_path, **env):
        clean = {key: value for key, value in os.environ.items() if key != "FEDSAG_HOME"}
        env = {**clean, "HOME": str(tmp_path / "home"), **env}
        return forked.command(words, cwd=cwd, env=env)

    return fedsag


def on_a_terminal(*words, cwd, columns):
    """What a terminal of that width gets to see."""
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", str(columns)], stdin=theirs, check=True)
    env = {key: value for key, value in os.environ.items() if key not in ("FEDSAG_HOME", "COLUMNS", "NO_COLOR")}
    env |= {"HOME": str(cwd), "TERM": "xterm"}
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    child = subprocess.Popen([sys.executable, "-c", MAIN, *words], cwd=cwd, env=env, **ends)
    os.close(theirs)
    seen = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        seen += more
    os.close(ours)
    assert child.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())


@pytest.mark.parametrize(
    ("words", "folded"),
    [
        ([], []),
        (["-w", "x", "-force"], ["-w", "x", "-force"]),
        (["-f", "a", "k=v"], ["-f", "a\0k=v"]),
        (["-f", "a", "k=--x 1", "j-", "-force", "-f", "b"], ["-f", "a\0k=--x 1\0j-", "-force", "-f", "b"]),
        (["--config_file", "a", "k="], ["-f", "a\0k="]),
        (["--config-file=a", "k=v=w", "-f", "a", "k=z"], ["-f", "a\0k=v=w", "-f", "a\0k=z"]),
        (["-f=a", "k=v", "--force"], ["-f", "a\0k=v", "--force"]),
        (["-f", "a", "-j", "x=y"], ["-f", "a", "-j", "x=y"]),
    ],
)
def test_the_words_after_a_file_are_its(words, folded):
    assert fold(words) == folded


@pytest.mark.parametrize(
    "words", [["-f"], ["-f", "-force"], ["-f", "a", "k"], ["-f", "a", "k=v", "more"], ["--config_file="], ["-f="]]
)
def test_a_word_that_is_no_key_and_value_is_a_usage_error(words):
    with pytest.raises(UsageError):
        fold(words)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("-forec", "-force"),
        ("-fo", "-force"),
        ("-force=yes", "-force"),
        ("-fmeta.conf", "-f meta.conf"),
        ("-file", "-f ile"),
    ],
)
@pytest.mark.parametrize("before", [[], ["-f", "a", "k=v"]])
def test_a_word_that_only_begins_like_f_is_a_usage_error_naming_the_nearest_flag(before, word, meant):
    with pytest.raises(UsageError, match=f"unknown option '{word}'") as error:
        fold([*before, word, "k=v"])

    assert error.value.hint == f"did you mean '{meant}'?"


@pytest.mark.parametrize("absolute", [True, False])
def test_the_tutorials_command_line_makes_its_job(fedsag, tmp_path, absolute):
    scripts = tmp_path / "code" / "fl"
    scripts.mkdir(parents=True)
    (scripts / "train.py").write_text("print('mine')")
    (scripts / "net.py").write_text("class Net:\n    def __init__(self): ...\n")
    (tmp_path / "sag").mkdir()
    folder = tmp_path / "jobs" / "cifar10_sag_pt"
    words = ["job", "create", "-j", str(folder) if absolute else "../jobs/cifar10_sag_pt", "-w", "sag_pt"]

    first = fedsag(*words, cwd=tmp_path / "sag")
    second = fedsag(*words, *TUTORIAL, "-sd", "../code/fl", "-force", cwd=tmp_path / "sag")

    assert (first.returncode, second.returncode) == (0, 0)
    job = Job.load(folder)
    assert (job.meta.name, job.meta.min_clients) == ("cifar10_sag_pt", 2)
    (client,) = job.app_for("site-1").client({"SITE_NAME": "site-1"}).executors
    arguments = ["--batch_size", "6", "--dataset_path", "{CIFAR10_ROOT}", "--num_workers", "2"]
    assert list(client.command) == ["python3", "-u", "custom/train.py", *arguments]
    (flow,) = job.app_for("server").server({"SITE_NAME": "server"}).workflows
    assert flow.args["num_rounds"] == 5
    assert (folder / "app" / "custom" / "train.py").read_text() == "print('mine')"
    warning, note = second.stderr.splitlines()
    assert note.startswith("note: config_fed_client.conf: tasks is without 'validate'")
    assert warning.startswith("warning: config_fed_client.conf: app_config: there is no variable 'CIFAR10_ROOT'")


def test_a_job_is_made_in_current_job_from_sag_pt_when_nothing_else_is_said(fedsag, tmp_path):
    done = fedsag("job", "create")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"made {tmp_path / 'current_job'} from sag_pt\n")
    assert Job.load(tmp_path / "current_job")


def test_every_long_name_of_a_flag_works(fedsag, tmp_path):
    (tmp_path / "s").mkdir()
    words = [
        "--job-folder",
        "j",
        "--template",
        "sag_np",
        "--config-file",
        "meta.conf",
        "min_clients=7",
        "--script_dir",
        "s",
    ]

    assert fedsag("job", "create", *words, "--force", "--debug").returncode == 0
    assert fedsag("job", "create", *words, "--force", "-debug").returncode == 0

    assert Job.load(tmp_path / "j").meta.min_clients == 7


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["-w", "sag_p"], 3, "there is no template 'sag_p'"),
        (["-sd", "nowhere"], 3, "does not exist"),
        (["-sd", "jobs"], 3, "does not exist"),
        (["-f", "meta.conf", "min_client=2"], 3, "meta.conf has no key 'min_client'"),
        (["-f", "meta.json", "min_clients=2"], 3, "did you mean 'meta.conf'?"),
        (["-f", "config_fed_server.conf", "num_rounds=abc"], 3, "num_rounds must be a whole number, not 'abc'"),
        (["-f", "config_fed_server.conf", "num_rounds"], 2, "key=value is expected"),
        (["-f", "config_fed_server.conf", "num_rounds=-1"], 3, "num_rounds must be a number from 1 on, not -1"),
        (["-f", "config_fed_server.conf", "workflows[0].args.start_round=-1"], 3, "must be a number from 0 on, not -1"),
        *(
            (["-f", "config_fed_server.conf", word], 3, f"config_fed_server.conf: workflows[0].args.{says}")
            for word, says in WRONG_ARGUMENTS
        ),
        (["-f", "config_fed_server.conf", "key_metric=x", "tb_folder=.."], 3, "tb_folder must be a folder name"),
        (["-f", "config_fed_client.conf", "launch_timeout=-1"], 3, "args.launch_timeout must be a number from 0 on"),
        (
            ["-f", "config_fed_client.conf", "params_transfer_type=DIF"],
            3,
            "must be 'FULL' or 'DIFF' (did you mean 'DIFF'?), not 'DIF'",
        ),
        (["-forec"], 2, "did you mean '-force'?"),
        (["-f=meta.conf", "min_clients=x"], 3, "min_clients must be a whole number, not 'x'"),
        (["-f"], 2, "-f needs a file"),
        (["x=y"], 2, "x=y"),
        (["-zz"], 2, "-z"),
        (["--format", "xml"], 2, "xml"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_made(fedsag, tmp_path, words, code, says):
    done = fedsag("job", "create", "-j", "jobs/j", *words)

    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "jobs").exists()


def test_without_force_an_existing_job_is_an_error(fedsag, tmp_path):
    fedsag("job", "create")
    before = (tmp_path / "current_job" / "meta.conf").read_text()

    done = fedsag("job", "create", "-f", "meta.conf", "min_clients=9")

    assert done.returncode == 3
    assert "-force" in done.stderr
    assert (tmp_path / "current_job" / "meta.conf").read_text() == before


@pytest.mark.parametrize(
    "value",
    ["", "0", "false", "= , \" ' # { } [ ] : / \\ $ ${HOME} * ? + @", "tab\t \nline ", "--lr 1e-3", "ünï ☃", "{}"],
)
def test_any_value_arrives_as_the_shell_gave_it(fedsag, tmp_path, value):
    done = fedsag("job", "create", "-f", "config_fed_client.conf", f"app_config={value}")

    assert done.returncode == 0
    conf = hocon.load(tmp_path / "current_job/app/config/config_fed_client.conf")
    assert conf["app_config"] == value


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere arguments are Unicode")
def test_bytes_that_are_no_text_are_an_error(fedsag, tmp_path):
    command = [sys.executable, "-c", MAIN, "job", "create", "-f", "config_fed_client.conf", b"app_config=\xff"]

    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True)

    assert done.returncode == 3
    assert b"must be UTF-8" in done.stderr
    assert not (tmp_path / "current_job").exists()


def test_create_tells_programs_what_it_made(fedsag, tmp_path):
    done = fedsag("job", "create", "--format", "json", "-f", "config_fed_client.conf", "app_script=later.py")

    told = json.loads(done.stdout)
    assert (told["job_folder"], told["template"], told["warnings"]) == (str(tmp_path / "current_job"), "sag_pt", [])
    assert any("custom/later.py" in note for note in told["notes"])


def test_a_job_that_the_simulator_would_refuse_is_told_with_the_words_that_mend_it(fedsag, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("")
    (tmp_path / "code" / "net.py").write_text("class Net:\n    def __init__(self, hidden, classes): ...\n")
    words = ["job", "create", "-force", "-sd", "code"]

    first = fedsag(*words)
    args = ["components[0].args.model.args.hidden=8", "components[0].args.model.args.classes=2"]
    second = fedsag(*words, "-f", "app/config_fed_server.conf", *args)

    said = " ".join(f'"{word.partition("=")[0]}=…"' for word in args)
    assert f"give create -f app/config_fed_server.conf {said}" in first.stderr
    assert "next: change what the note says, then fedsag simulator current_job" in first.stdout
    assert "reject" not in second.stderr
    assert "next: fedsag simulator current_job" in second.stdout


def test_a_file_that_was_copied_as_it_is_and_cannot_be_read_is_a_note(fedsag, tmp_path):
    for name, text in {"meta.conf": "", "config_fed_client.conf": "a = 1", "more.json": "{"}.items():
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / name).write_text(text)

    done = fedsag("job", "create", "-w", "./t")

    assert done.returncode == 0
    assert "config_fed_client.conf" in done.stdout
    assert (tmp_path / "current_job" / "app" / "config" / "more.json").read_text() == "{"


@pytest.mark.parametrize("spelling", ["list_templates", "list-templates"])
def test_templates_are_listed_a_row_a_line_whatever_the_width(fedsag, spelling):
    done = fedsag("job", spelling, COLUMNS="20", FORCE_COLOR="1", TERM="xterm")

    header, *rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert header == ["name", "description", "controller_type", "execution_api_type", "source"]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert ["sag_pt", "FedAvg using PyTorch", "server", "client_api", "fedsag"] in rows
    assert "\x1b" not in done.stdout


def test_to_list_templates_nothing_is_imported_that_takes_long(tmp_path):
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); " + MAIN
    env = {key: value for key, value in os.environ.items() if key != "FEDSAG_HOME"} | {"HOME": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", code, "job", "list_templates"], env=env, capture_output=True, text=True, check=True
    )

    heavy = {
        "pyhocon",
        "pyparsing",
        "yaml",
        "jinja2",
        "rich",
        "torch",
        "numpy",
        "fedsag_cli.catalog",
        "fedsag_cli.plan",
    }
    assert "sag_pt" in done.stdout
    assert "fedsag_cli.job.templates.find" in done.stderr.split()
    assert heavy & set(done.stderr.split()) == set()


def test_templates_are_listed_for_programs(fedsag, tmp_path):
    assert {row["name"] for row in json.loads(fedsag("job", "list_templates", "--format", "json").stdout)} >= {"sag_pt"}
    assert json.loads(fedsag("job", "list_templates", "-d", ".", "--format", "json").stdout) == []


def test_a_templates_folder_that_is_not_there_is_an_error(fedsag, tmp_path):
    done = fedsag("job", "list_templates", "-d", "nowhere")

    assert (done.returncode, done.stdout) == (3, "")
    assert str(tmp_path / "nowhere") in done.stderr


@pytest.mark.parametrize("spelling", ["show_variables", "show-variables"])
def test_variables_are_shown_a_row_a_line_whatever_the_width(fedsag, spelling):
    long = "--note " + "x" * 300
    fedsag("job", "create", "-f", "config_fed_client.conf", f"app_config={long}")

    done = fedsag("job", spelling, COLUMNS="20")

    header, *rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert header == ["file_name", "var_name", "value", "type", "default", "component", "meaning"]
    assert all(len(row) == 7 for row in rows)
    assert ["config_fed_server.conf", "num_rounds", "5", "int", "5", "ScatterAndGather", "number of rounds"] in rows
    assert any(row[1:3] == ["app_config", long] for row in rows)


def test_what_is_not_set_is_shown_as_null_with_its_type_and_meaning(fedsag):
    fedsag("job", "create")

    rows = json.loads(fedsag("job", "show_variables", "--format", "json").stdout)

    shown = {row["var_name"]: row for row in rows}
    kinds = {"num_clients": "int", "patience": "int", "fedprox_mu": "float", "stop_cond": "text"}
    assert {name: (shown[name]["value"], shown[name]["type"]) for name in kinds} == {
        name: (None, kind) for name, kind in kinds.items()
    }
    assert all(row["meaning"] for row in rows)


def test_variables_are_shown_for_programs_with_their_types(fedsag):
    fedsag("job", "create", "-f", "config_fed_client.conf", "app_config=a\nb  c")

    rows = json.loads(fedsag("job", "show_variables", "-j", "current_job", "--format", "json").stdout)

    (row,) = [row for row in rows if row["var_name"] == "app_config"]
    assert (row["value"], row["type"], row["file_name"]) == ("a\nb  c", "text", "config_fed_client.conf")


def test_a_value_of_several_lines_stays_one_row(fedsag):
    fedsag("job", "create", "-f", "config_fed_client.conf", "app_config=a\nb\x1b[31m")

    text = fedsag("job", "show_variables").stdout

    assert "a\\nb\\x1b[31m" in text
    assert "\x1b" not in text


def test_a_job_that_is_not_there_has_no_variables(fedsag):
    done = fedsag("job", "show_variables", "-j", "nowhere")

    assert done.returncode == 3
    assert "is not a job" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_on_a_terminal_nothing_is_cut(fedsag, tmp_path, columns):
    value = "Y" * 90
    fedsag("job", "create", "-f", "config_fed_client.conf", f"app_config={value}")

    listed = on_a_terminal("job", "list_templates", cwd=tmp_path, columns=columns)
    shown = on_a_terminal("job", "show_variables", cwd=tmp_path, columns=columns)

    assert all(len(line.rstrip()) <= columns for line in (listed + shown).splitlines())
    assert "…" not in listed + shown
    assert shown.count("Y") == 90
    assert "sag_pt_deploy_map" in listed or columns == 40  # there it is folded


def test_a_reader_that_goes_away_is_no_traceback(fedsag, tmp_path):
    command = f'{sys.executable} -c "{MAIN}" job list_templates | head -1'

    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)

    assert done.stdout.startswith("name")
    assert "Traceback" not in done.stderr


def test_an_encoding_without_a_sign_for_a_letter_is_no_error(fedsag):
    done = fedsag("job", "create", "-f", "config_fed_client.conf", "app_config=☃", PYTHONIOENCODING="ascii")

    assert done.returncode == 0
    assert "\\u2603" in done.stdout
