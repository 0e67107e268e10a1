"""All problems of a job at once, each with its file, line and key; scripts and components are tried in a copy."""

import errno
import json
import shutil
import tempfile
from pathlib import Path
from textwrap import dedent

import pytest
from runs import ADDS_ONE, fedsag, job

from fedsag_cli.errors import JobError, RunError, WorkspaceError
from fedsag_cli.interop import reading
from fedsag_cli.job import Job
from fedsag_cli.simulator import imports
from fedsag_cli.simulator.dry_run import dry_run
from fedsag_cli.simulator.options import Options
from fedsag_cli.simulator.planning import make_plan
from fedsag_cli.simulator.validation import problems, validate
from fedsag_cli.workspace import Workspace

META = """\
name = "j"
deploy_map {
  app = ["@ALL"]
}
"""
SERVER = """\
rounds = 2
workflows = [
  {
    id = "w"
    path = "ScatterAndGather"
    args {
      aggregator_id = "a"
      persistor_id = "p"
      num_rounds = "{rounds}"
    }
  }
]
components = [
  { id = "a", path = "FedAvg" }
  { id = "p", path = "NPModelPersistor" }
]
"""
CLIENT = """\
executors = [
  {
    tasks = ["train"]
    executor {
      path = "ClientAPIExecutor"
      args {
        execution_mode = "external_process"
        command = "python3 custom/train.py"
      }
    }
  }
]
"""
FILES = {
    "meta.conf": META,
    "app/config/config_fed_server.conf": SERVER,
    "app/config/config_fed_client.conf": CLIENT,
    "app/custom/train.py": dedent(ADDS_ONE),
}


@pytest.fixture
def made(tmp_path):
    """Makes the job with these texts in the place of others."""

    def make(*changes, **files):
        for name, text in (FILES | {name.replace("__", "/") + ".py": text for name, text in files.items()}).items():
            for old, new in changes:
                text = text.replace(old, new)
            path = tmp_path / "job" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        return tmp_path / "job"

    return make


def told(found):
    return [(Path(each.file).name, each.line, each.key) for each in found]


def test_a_job_without_problems_has_none(made):
    assert problems(made(), Options(num_clients=3)) == []


def test_every_problem_is_found_at_once_with_file_line_and_key(made):
    folder = made(
        ('name = "j"', "min_client = 1"),
        ('path = "FedAvg"', 'path = "FedAvg", idd = 1'),
        ('persistor_id = "p"', 'persistor_id = "q"\n      num_round = 1'),
        ("rounds = 2", "rounds = 0"),
        ('execution_mode = "external_process"', 'execution_mode = "external"\n        launch_once = 3'),
    )

    found = problems(folder, Options())

    assert told(found) == [
        ("meta.conf", 1, "min_client"),
        ("config_fed_server.conf", 8, "workflows[0].args.persistor_id"),
        ("config_fed_server.conf", 9, "workflows[0].args.num_round"),
        ("config_fed_server.conf", 10, "workflows[0].args.num_rounds"),
        ("config_fed_server.conf", 15, "components[0].idd"),
        ("config_fed_client.conf", 7, "executors[0].executor.args.execution_mode"),
        ("config_fed_client.conf", 8, "executors[0].executor.args.launch_once"),
    ]
    assert found[0].text == "meta.conf:1: min_client: there is no such key"
    assert found[0].hint == "did you mean 'min_clients'?"
    assert len({each.message for each in found}) == len(found)


@pytest.mark.parametrize(
    ("old", "new", "file", "line", "says"),
    [
        ('["@ALL"]', '["site-1"]', "meta.conf", 2, "must name an app for 'server'"),
        ("app = [", "apq = [", "meta.conf", 3, "there is no app 'apq'"),
        ("@ALL", "server, site-9", "meta.conf", 2, "no app for site 'site-1'"),
        ("custom/train.py", "custom/trian.py", "config_fed_client.conf", 8, "custom/trian.py of site-1 does not exist"),
        ("python3 custom/train.py", "nowhere x", "config_fed_client.conf", 8, "'nowhere', does not exist"),
        ('"{rounds}"', '"{round}"', "config_fed_server.conf", 9, "no variable 'round'"),
        ('tasks = ["train"]', 'tasks = ["trim"]', "config_fed_server.conf", 6, "no client takes the task 'train'"),
        ('path = "FedAvg"', 'path = "FedAvgg"', "config_fed_server.conf", 14, "no component 'FedAvgg'"),
        ('id = "a", path', 'id = "p", path', "config_fed_server.conf", 15, "which another one has too"),
        ("workflows = [", "workflows = [\n}", "config_fed_server.conf", 3, "is not HOCON"),
        ("flare.init()", "flare.init(", "train.py", 4, "SyntaxError"),
        ('"FedAvg" }', '"FedAvg", args { x = "${secret:NO_NAME}" } }', "config_fed_server.conf", 14, "no argument 'x'"),
    ],
)
def test_what_the_simulator_refuses_is_a_problem_with_its_line(made, tmp_path, old, new, file, line, says):
    new = new.replace("server, site-9", 'server", "site-9')
    folder = made((old, new))

    found = problems(folder, Options(num_clients=2))

    with pytest.raises(JobError) as refused:
        make_plan(Job.load(folder, reading.translate), Workspace(tmp_path / "ws"), Options(num_clients=2))
    assert refused.value.message.replace(f"{folder}/", "") in [each.message for each in found]
    assert (file, line) in [(Path(each.file).name, each.line) for each in found if says in each.message]


def test_hundreds_of_clients_with_one_mistake_are_one_problem(made):
    folder = made(("custom/train.py", "custom/{SITE_NAME}.py"))

    assert len(problems(folder, Options(num_clients=200))) == 1


def test_a_value_given_with_set_is_checked_in_place_of_the_files(made):
    assert problems(made(("num_rounds = ", "num_rounds = 0 #")), Options(sets=["num_rounds=3"])) == []
    assert "num_rounds must be" in problems(made(), Options(sets=["workflows[0].args.num_rounds=0"]))[0].message


def test_the_places_in_a_job_of_nvflare_are_those_of_its_own_files(made):
    left_out = '{ id = "x", path = "nvflare.widgets.convert_to_fed_event.ConvertToFedEvent" }\n'
    folder = made(
        ('{ id = "a"', left_out + '  { id = "a"'), ('path = "NPModelPersistor"', 'path = "NPModelPersistor", q = 1')
    )

    assert told(problems(folder, Options())) == [("config_fed_server.conf", 16, "components[1].q")]


@pytest.mark.slow
def test_scripts_and_components_are_tried_in_a_copy_and_nothing_is_left(made, tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "LIMIT_S", 3.0)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    text = dedent(ADDS_ONE)
    wrong = {
        "good": text.replace("flare.init()", "open('made', 'w').close()\nflare.init()\nraise ValueError"),
        "raises": "x = 1\nimport helper\n" + text,
        "ends": "print('I am done')\n",
        "hangs": "import time\ntime.sleep(600)\n" + text,
    }
    folder = tmp_path / "job"
    for name, script in wrong.items():
        job(folder, script, executor={})
        shutil.move(folder / "app", folder / f"app_{name}")
        (folder / f"app_{name}" / "custom" / "helper.py").write_text("\n\nraise RuntimeError('not today')")
    server = json.loads((folder / "app_good/config/config_fed_server.json").read_text())
    server["components"][0] = {"id": "persistor", "path": "mine.P", "args": {"a": 1}}
    (folder / "app_good/config/config_fed_server.json").write_text(json.dumps(server))
    (folder / "app_good/custom/mine.py").write_text("class P:\n    def __init__(self, a):\n        self.a = a.b\n")
    deploys = {f"app_{name}": [f"site-{number}"] for number, name in enumerate(wrong, start=1)}
    deploys["app_good"] += ["server"]
    (folder / "meta.json").write_text(json.dumps({"name": "j", "deploy_map": deploys}))
    before = sorted(folder.rglob("*"))

    checked = validate(folder, Options())

    built, raised, ended = (each.text for each in checked.problems)
    assert built.startswith("app_good/custom/mine.py:3: component 'persistor' (mine.P) cannot be built: AttributeError")
    says = "the script custom/train.py of site-2 ended before flare.init(): RuntimeError: not today"
    assert raised == f"app_raises/custom/helper.py:3: {says}"
    assert ended == "app_ends: the script custom/train.py of site-3 ended before flare.init()"
    assert checked.problems[2].hint == "it printed: I am done"
    limit = "the script custom/train.py of site-4 has not reached flare.init() within 3 s"
    assert [text for text in checked.notes if text.startswith(limit)]
    assert sorted(folder.rglob("*")) == before
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_what_the_system_refuses_is_no_bug_in_fedsag(made, monkeypatch):
    def refuse(*_args, **_named):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/copy")

    monkeypatch.setattr(Workspace, "deploy", refuse)

    for tried in (validate, dry_run):
        with pytest.raises((RunError, WorkspaceError), match="/tmp/copy: No space left on device"):
            tried(made(), Options(num_clients=1))


def test_the_command_says_that_there_are_no_problems_or_lists_them_with_exit_code_3(made):
    folder = made()
    fine = fedsag("job", "validate", "job", "-n", 3, cwd=folder.parent)
    (folder / "app/config/config_fed_server.conf").write_text(SERVER.replace("num_rounds", "num_round"))
    wrong = fedsag("job", "validate", "job", cwd=folder.parent)
    as_json = fedsag("job", "validate", "job", "--format", "json", cwd=folder.parent)
    refused = fedsag("simulator", "job", "-w", "ws", cwd=folder.parent)

    assert (fine.code, fine.out.splitlines()[-1]) == (0, "no problems: job can be run with 3 clients")
    assert wrong.code == as_json.code == refused.code == 3
    assert "config_fed_server.conf:9: workflows[0].args.num_round: " in wrong.out
    assert "error: job: 1 problem" in wrong.err
    assert json.loads(as_json.out)[0]["line"] == 9
    assert not (folder.parent / "ws").exists()


def test_an_error_of_the_simulator_says_how_many_more_there_are(made):
    folder = made(("num_rounds", "num_round"), ("persistor_id", "persitor_id"))

    refused = fedsag("simulator", "job", "-w", "ws", cwd=folder.parent)

    assert "and 2 more: fedsag job validate job shows all" in refused.err
