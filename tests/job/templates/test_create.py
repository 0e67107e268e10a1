"""Templates: where they are found, and the jobs made from them, whole or not at all."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedsag_cli.errors import JobError
from fedsag_cli.job import Job, meta
from fedsag_cli.job.config import hocon
from fedsag_cli.job.templates import bounded, create, find, replace_folder, variables
from fedsag_cli.job.templates.create import create as make
from fedsag_cli.job.templates.project import Project
from fedsag_cli.job.templates.rendering import render

INFO = """
description = "Averaging"
controller_type = "server"
execution_api_type = "client_api"
variables = [
  { name = "min_clients", file = "meta.conf", type = "int", default = 2, meaning = "sites needed" }
  { name = "num_rounds", file = "config_fed_server.conf", type = "int", default = 5, meaning = "rounds of training" }
  { name = "lr", file = "config_fed_server.conf", type = "float", default = 0.5, meaning = "step size" }
  { name = "weights", file = "config_fed_server.conf", type = "object", default = {}, meaning = "by site" }
  { name = "app_script", file = "config_fed_client.conf", type = "text", default = "train.py", meaning = "the script" }
  { name = "app_config", file = "config_fed_client.conf", type = "text", default = "", meaning = "its arguments" }
  { name = "launch_once", file = "config_fed_client.conf", type = "bool", default = true, meaning = "one start" }
]
"""
META = """# The job's name.
name = {{ name }}
min_clients = {{ min_clients }} # sites
deploy_map { app = ["@ALL"] }
"""
SERVER = """# rounds
workflows = [ {# no Jinja comment
  id = "flow", path = "parts.Flow"
  args { num_rounds = {{ num_rounds }}, lr = {{ lr }}, weights = {{ weights }} } } ]
extra = 1
"""
CLIENT = """# the script
app_script = {{ app_script }}
app_config = {{ app_config }}
executors = [ { tasks = ["train"], executor { path = "ClientAPIExecutor", args {
  execution_mode = "external_process"
  command = ["python3", "custom/{app_script}", "{app_config}"]
  launch_once = {{ launch_once }} } } } ]
"""
PARTS = "class Flow:\n    def __init__(self, num_rounds: int, lr: float, weights=None, patience: int = 3): ...\n"
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder of templates: `sag`, that declares variables, and two as NVFLARE writes them."""
    monkeypatch.delenv("FEDSAG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shop = tmp_path / "shop"
    write(shop / "sag", {"info.conf": INFO, "meta.conf": META, "config_fed_server.conf": SERVER})
    write(shop / "sag", {"config_fed_client.conf": CLIENT, "custom/parts.py": PARTS, "custom/train.py": ""})
    write(shop / "sag", {"custom/__pycache__/x.pyc": "", "README.md": "", "info.md": ""})
    plain = {
        "config_fed_server.conf": 'workflows = []\na = "{{ not }}"  # {% mine %}\n',
        "config_fed_client.conf": "b=1",
    }
    write(shop / "plain", plain)
    write(shop / "several" / "app_server", {"config_fed_server.conf": "workflows = []"})
    write(shop / "several" / "app_1", {"config_fed_client.conf": "lr = 1"})
    write(shop / "several" / "app_2", {"config_fed_client.conf": "lr = 2", "custom/own.py": ""})
    write(shop / "several", {"custom/shared.py": "", "info.conf": 'description = "Several apps"'})
    write(shop / "notes", {"readme.txt": "no template"})
    return shop


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_templates_are_listed_by_name_with_what_they_say_of_themselves(shop):
    found = find.all_templates(shop)

    assert [(template.name, template.description, template.source) for template in found.templates] == [
        ("plain", "NA", str(shop)),
        ("sag", "Averaging", str(shop)),
        ("several", "Several apps", str(shop)),
    ]
    assert found.problems == []


@pytest.mark.parametrize(
    "file",
    [("info.conf", "{{{"), ("info.conf", "variables = 5"), ("info.conf", 'variables = [{ name = "a", type = "int" }]')],
)
def test_a_broken_template_is_named_and_hides_no_other(shop, file):
    write(shop / "zz", {"config_fed_server.conf": "", file[0]: file[1]})

    found = find.all_templates(shop)

    assert [template.name for template in found.templates] == ["plain", "sag", "several"]
    (problem,) = found.problems
    assert problem.startswith(f"the template {shop / 'zz'} cannot be used: zz/info.conf: ")


def test_an_info_file_is_not_read_through_a_link_that_leads_out(shop, tmp_path):
    write(tmp_path, {"secret": "root:x:0"})
    (shop / "sag" / "info.conf").unlink()
    (shop / "sag" / "info.conf").symlink_to(tmp_path / "secret")

    found = find.all_templates(shop)

    assert [template.name for template in found.templates] == ["plain", "several"]
    assert "outside the template" in found.problems[0]
    assert "root" not in found.problems[0].replace(str(tmp_path), "")


def test_templates_are_looked_up_where_d_says_or_in_the_environment_the_config_file_and_fedsags(shop, monkeypatch):
    home = shop.parent / "home" / ".fedsag"
    home.mkdir(parents=True)

    assert [where.named_by for where in find.templates_folders()] == ["shipped with fedsag"]
    (home / "config.conf").write_text(hocon.dumps({"job_template": {"path": "/stored"}}, name="x"))
    own = shop.parent / "own" / "job_templates"
    own.mkdir(parents=True)
    monkeypatch.setenv("FEDSAG_HOME", str(own.parent))
    *named, shipped = find.templates_folders()
    assert [str(where.folder) for where in named] == [str(own), "/stored"]
    assert shipped.named_by == "shipped with fedsag"
    assert [where.folder for where in find.templates_folders(shop)] == [shop]


def test_a_stored_folder_adds_to_the_shipped_templates_and_comes_before_them(shop, monkeypatch):
    config = shop.parent / "home" / ".fedsag" / "config.conf"
    write(config.parent, {config.name: hocon.dumps({"job_template": {"path": str(shop)}}, name="x")})
    (shop / "sag").rename(shop / "sag_np")

    sources = {template.name: template.source for template in find.all_templates().templates}

    assert sources == {
        **dict.fromkeys(SHIPPED, "fedsag"),
        **dict.fromkeys(["plain", "sag_np", "several"], str(shop)),
    }
    assert find.find_template("sag_np").folder == shop / "sag_np"
    assert find.find_template("sag_pt").folder.name == "sag_pt"


def test_a_stored_folder_that_was_removed_hides_no_template_but_is_an_error_for_a_job(shop):
    config = shop.parent / "home" / ".fedsag" / "config.conf"
    write(config.parent, {config.name: hocon.dumps({"job_template": {"path": "/nowhere"}}, name="x")})

    found = find.all_templates()

    assert [template.name for template in found.templates] == SHIPPED
    assert found.problems == [f"there is no templates folder /nowhere (named by {config})"]
    with pytest.raises(JobError, match="no templates folder /nowhere"):
        find.find_template("sag_np")  # perhaps the user's own, which has that name


def test_a_home_of_fedsag_may_have_no_templates(shop, monkeypatch):
    monkeypatch.setenv("FEDSAG_HOME", str(shop.parent / "empty"))

    assert find.find_template("sag_np").source == "fedsag"


def test_a_template_is_found_by_its_folder_too(shop):
    assert find.find_template("shop/sag").folder == shop / "sag"
    assert find.find_template(str(shop / "plain")).folder == shop / "plain"


def test_an_unknown_template_is_an_error_with_the_nearest_name(shop):
    with pytest.raises(JobError, match="no template 'sga'") as error:
        find.find_template("sga", shop)

    assert error.value.hint == "did you mean 'sag'?"


def test_a_variable_whose_default_is_of_another_type_is_an_error(shop):
    (shop / "sag" / "info.conf").write_text(
        'variables = [{ name = "a", file = "meta.conf", type = "int", default = "x" }]'
    )

    with pytest.raises(JobError, match=r"sag/info\.conf: variables\[0\]\.default must be a whole number, not 'x'"):
        find.find_template("sag", shop)


def test_a_job_is_made_where_nothing_was(shop, tmp_path):
    made = make(tmp_path / "deep" / "down" / "job1", "sag", templates_dir=shop)

    assert tree(made.folder) == [
        "app/config/config_fed_client.conf",
        "app/config/config_fed_server.conf",
        "app/custom/parts.py",
        "app/custom/train.py",
        "meta.conf",
    ]
    assert [path.name for path in (tmp_path / "deep" / "down").iterdir()] == ["job1"]
    drawn = SERVER.replace("{{ num_rounds }}", "5").replace("{{ lr }}", "0.5").replace("{{ weights }}", "{}")
    assert (made.folder / "app/config/config_fed_server.conf").read_text() == drawn
    assert Job.load(made.folder).meta.name == "job1"
    assert (made.notes, made.warnings, made.refusals) == ([], [], [])


def test_a_made_job_keeps_its_comments_and_has_what_was_asked_for(shop, tmp_path):
    asked = [
        ("meta.conf", ["min_clients=3"]),
        ("app/config_fed_server.conf", ["num_rounds=0"]),
        ("config_fed_client.conf", ["launch_once=false", "app_config=a"]),
        ("./app/config/config_fed_server.conf", ["lr=1e-3", "weights={site-1 = 2}"]),
        ("config_fed_client.conf", ["app_config="]),
    ]

    folder = make(tmp_path / "j", "sag", overrides=asked, templates_dir=shop).folder

    job = Job.load(folder)
    (flow,) = job.apps["app"].server({}).workflows
    assert job.meta.min_clients == 3
    assert flow.args == {"num_rounds": 0, "lr": 0.001, "weights": {"site-1": 2}}
    assert job.apps["app"].client({}).executors[0].config.launch_once is False
    assert job.apps["app"].client({}).executors[0].command[-1] == ""
    assert "# the script" in (folder / "app/config/config_fed_client.conf").read_text()
    assert "min_clients = 3 # sites" in (folder / "meta.conf").read_text()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY_TEXT)
@example(
    '= , " \' # { } [ ] : / \\ $ ${HOME} \t \n \r \0 {{ x }} {% y %} {CIFAR10_ROOT} include url("http://x") \\u0041'
)
@example("--batch_size 6 --dataset_path {CIFAR10_ROOT} --num_workers 2")
def test_any_text_arrives_as_it_was_given(shop, tmp_path, text):
    asked = [("config_fed_client.conf", [f"app_config={text}"])]

    folder = make(tmp_path / "any", "sag", overrides=asked, templates_dir=shop, force=True, command=[text]).folder

    app = Job.load(folder).apps["app"]
    assert hocon.load(app.config / "config_fed_client.conf")["app_config"] == text
    assert app.client({}).executors[0].command[-1] == text or "{" in text or "}}" in text  # which stands for one brace


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY_TEXT)
def test_any_text_arrives_in_a_file_that_is_written_anew(shop, tmp_path, text):
    (shop / "plain" / "config_fed_client.conf").write_text('note = "" # a comment\nlist = [{ b = 1 }]')

    made = make(
        tmp_path / "any",
        "plain",
        overrides=[("config_fed_client.conf", [f"note={text}"])],
        templates_dir=shop,
        force=True,
    )

    assert hocon.load(made.folder / "app/config/config_fed_client.conf") == {"note": text, "list": [{"b": 1}]}
    assert [note for note in made.notes if "comments are lost" in note] == (
        ["config_fed_client.conf was rewritten to set note: its comments are lost"] if text else []
    )


def test_the_command_that_made_a_job_stands_in_a_comment_it_cannot_break_out_of(shop, tmp_path):
    words = ["job", "create", "-f", "x", "a=b\nname = evil\r\x85\u2028", "it's", "tab\t\\"]

    folder = make(tmp_path / "j", "sag", templates_dir=shop, command=words).folder

    lines = (folder / "meta.conf").read_bytes().decode().split("\n")
    assert lines[0].startswith("# Made by fedsag ")
    assert lines[1].startswith("#   fedsag job create -f x $'a=b\\x0aname = evil\\x0d")
    assert shlex.split(lines[1][1:])[:5] == ["fedsag", "job", "create", "-f", "x"]
    assert Job.load(folder).meta.name == "j"


def test_a_template_without_variables_is_copied_byte_for_byte(shop, tmp_path):
    folder = make(tmp_path / "j", "plain", templates_dir=shop).folder

    for name in ("config_fed_server.conf", "config_fed_client.conf"):
        assert (folder / "app/config" / name).read_bytes() == (shop / "plain" / name).read_bytes()
    assert hocon.load(folder / "meta.conf") == {"name": "j", "min_clients": 1, "deploy_map": {"app": ["@ALL"]}}


def test_a_meta_json_of_a_template_becomes_the_jobs_meta_conf(shop, tmp_path):
    (shop / "plain" / "meta.json").write_text(
        json.dumps({"name": "old", "min_clients": 4, "deploy_map": {"app": ["@ALL"]}})
    )

    folder = make(tmp_path / "j", "plain", templates_dir=shop, overrides=[("meta.conf", ["min_clients=5"])]).folder

    assert hocon.load(folder / "meta.conf") == {"name": "j", "min_clients": 5, "deploy_map": {"app": ["@ALL"]}}
    assert not (folder / "meta.json").exists()


def test_several_apps_get_their_own_files_and_what_is_shared(shop, tmp_path):
    folder = make(tmp_path / "j", "several", templates_dir=shop).folder

    assert tree(folder) == [
        "app_1/config/config_fed_client.conf",
        "app_1/custom/shared.py",
        "app_2/config/config_fed_client.conf",
        "app_2/custom/own.py",
        "app_2/custom/shared.py",
        "app_server/config/config_fed_server.conf",
        "app_server/custom/shared.py",
        "meta.conf",
    ]
    deploy_map = {"app_1": ["site-1"], "app_2": ["site-2"], "app_server": ["server"]}
    assert hocon.load(folder / "meta.conf")["deploy_map"] == deploy_map


@pytest.mark.parametrize("file", ["app_1/config_fed_client.conf", "app_1/config/config_fed_client.conf"])
def test_one_of_several_apps_is_named_with_the_file(shop, tmp_path, file):
    folder = make(tmp_path / "j", "several", templates_dir=shop, overrides=[(file, ["lr=9"])]).folder

    assert hocon.load(folder / "app_1/config/config_fed_client.conf") == {"lr": 9}
    assert hocon.load(folder / "app_2/config/config_fed_client.conf") == {"lr": 2}


def test_a_config_file_among_the_scripts_can_be_set_too(shop, tmp_path):
    scripts = tmp_path / "scripts"
    write(scripts, {"sub/x.json": '{"a": 1, "b": [1]}', "y.conf": "c = 1", "config/z.conf": "d = 1"})
    asked = [("app/custom/sub/x.json", ["a=2"]), ("app/custom/y.conf", ["c=3"]), ("app/custom/config/z.conf", ["d=4"])]

    folder = make(tmp_path / "j", "sag", script_dir=scripts, templates_dir=shop, overrides=asked).folder

    assert json.loads((folder / "app/custom/sub/x.json").read_text()) == {"a": 2, "b": [1]}
    assert hocon.load(folder / "app/custom/y.conf") == {"c": 3}
    assert hocon.load(folder / "app/custom/config/z.conf") == {"d": 4}
    assert json.loads((scripts / "sub/x.json").read_text()) == {"a": 1, "b": [1]}


@pytest.mark.parametrize(
    ("template", "asked", "says", "hint"),
    [
        (
            "sag",
            ("config_fed_server.json", "num_rounds=1"),
            "config_fed_server.json: there is no such file in the job",
            "server.conf",
        ),
        ("sag", ("nosuch.conf", "a=1"), "nosuch.conf: there is no such file in the job", ""),
        ("sag", ("/x/meta.conf", "a=1"), "/x/meta.conf: use the file's name in the job", "'meta.conf'"),
        ("sag", ("../sag/meta.conf", "a=1"), "no such file", "meta.conf"),
        ("several", ("config_fed_client.conf", "lr=1"), "several apps", "app_1/config_fed_client.conf, app_2/config"),
        ("several", ("app_3/config_fed_client.conf", "lr=1"), "no such file", "config_fed_client.conf'"),
        ("sag", ("config_fed_server.conf", "num_round=1"), "no key 'num_round'", "'num_rounds'"),
        ("sag", ("meta.conf", "num_rounds=1"), "meta.conf has no key 'num_rounds'", "config_fed_server.conf"),
        ("sag", ("config_fed_server.conf", "num_rounds=abc"), "num_rounds must be a whole number, not 'abc'", ""),
        ("sag", ("config_fed_server.conf", "num_rounds="), "num_rounds must be a whole number, not ''", ""),
        ("sag", ("config_fed_client.conf", "launch_once=1"), "launch_once must be true or false", ""),
        ("sag", ("config_fed_server.conf", "weights=5"), "weights must be an object", ""),
        ("sag", ("config_fed_server.conf", "num_rounds"), "key=value is expected", ""),
        ("sag", ("meta.conf", "name=x"), "name is the name of the job's folder", "-j"),
        ("nosuch", ("meta.conf", "a=1"), "no template 'nosuch'", ""),
    ],
)
@pytest.mark.parametrize("there", ["nothing", "a job"])
def test_a_wrong_override_leaves_everything_as_it_was(shop, tmp_path, template, asked, says, hint, there):
    folder = tmp_path / "jobs" / "j"
    if there == "a job":
        make(folder, "plain", templates_dir=shop)
    before = tree(tmp_path)

    with pytest.raises(JobError) as error:
        make(folder, template, overrides=[(asked[0], [asked[1]])], templates_dir=shop, force=True)

    assert says in error.value.message
    assert hint in error.value.hint
    assert tree(tmp_path) == before
    assert folder.exists() == (there == "a job")
    assert folder.parent.exists() == (there == "a job")


def test_a_key_that_is_not_declared_is_set_and_removed_too(shop, tmp_path):
    asked = [("config_fed_server.conf", ["patience=7", "extra-"])]

    made = make(tmp_path / "j", "sag", overrides=asked, templates_dir=shop)

    (flow,) = Job.load(made.folder).apps["app"].server({}).workflows
    assert flow.args["patience"] == 7
    assert "extra" not in hocon.load(made.folder / "app/config/config_fed_server.conf")
    assert made.notes == ["config_fed_server.conf was rewritten to set patience, extra: its comments are lost"]


def test_a_placeholder_nobody_knows_is_warned_of_and_one_that_is_known_is_not(shop, tmp_path):
    asked = [("config_fed_client.conf", ["app_config=--root {CIFAR10_ROOT} --at {SITE_NAME} {app_script} {$HOME} {}"])]

    made = make(tmp_path / "j", "sag", overrides=asked, templates_dir=shop)

    (warning,) = made.warnings
    assert "config_fed_client.conf: app_config: there is no variable 'CIFAR10_ROOT'" in warning


def test_a_script_that_is_not_there_yet_is_a_note(shop, tmp_path):
    made = make(tmp_path / "j", "sag", overrides=[("config_fed_client.conf", ["app_script=a.py"])], templates_dir=shop)

    assert made.refusals == ["app/custom/a.py does not exist yet: add it before you run the job"]


TUNED = INFO.replace('type = "text", default = ""', 'type = "text", default = "--epochs 2"')


@pytest.mark.parametrize(
    ("asked", "scripts", "arguments"),
    [
        ([], None, "--epochs 2"),  # the template's script: its arguments
        (["app_script=train.py"], None, "--epochs 2"),
        ([], "train.py", ""),
        (["app_script=mine.py"], "mine.py", ""),
        (["app_script=mine.py"], None, ""),  # it is added to custom/ later
        (["app_config=--lr 1"], "train.py", "--lr 1"),
        (["app_config=--epochs 2"], "train.py", "--epochs 2"),
        (["app_config="], None, ""),
    ],
)
def test_the_arguments_of_the_templates_script_go_where_its_script_goes(shop, tmp_path, asked, scripts, arguments):
    (shop / "sag" / "info.conf").write_text(TUNED)
    write(tmp_path / "scripts", {str(scripts): "", "parts.py": PARTS})
    overrides = [("config_fed_client.conf", asked)]

    made = make(
        tmp_path / "j", "sag", overrides=overrides, script_dir=scripts and tmp_path / "scripts", templates_dir=shop
    )

    assert hocon.load(made.folder / "app/config/config_fed_client.conf")["app_config"] == arguments
    told = "config_fed_client.conf: app_config is empty: '--epochs 2' of the template is for its own script"
    assert (told in made.notes) == (arguments == "" and asked != ["app_config="])


def test_a_template_without_a_script_of_its_own_gives_its_arguments_to_yours(shop, tmp_path):
    (shop / "sag" / "info.conf").write_text(TUNED)
    (shop / "sag" / "custom" / "train.py").rename(shop / "train.py")
    write(tmp_path / "scripts", {"train.py": "", "parts.py": PARTS})

    made = make(tmp_path / "j", "sag", script_dir=tmp_path / "scripts", templates_dir=shop)

    assert hocon.load(made.folder / "app/config/config_fed_client.conf")["app_config"] == "--epochs 2"


def test_scripts_of_the_user_take_the_place_of_the_templates_and_links_are_followed(shop, tmp_path):
    scripts, elsewhere = tmp_path / "scripts", tmp_path / "elsewhere"
    write(
        scripts, {"train.py": "mine", ".hidden": "", "__pycache__/x.pyc": "", "sub/__pycache__/y": "", "sub/z.py": ""}
    )
    write(elsewhere, {"a/b.py": "linked", "parts.py": PARTS})
    (scripts / "linked").symlink_to(elsewhere / "a")
    (scripts / "parts.py").symlink_to("../elsewhere/parts.py")
    (scripts / "train.py").chmod(0o755)

    folder = make(tmp_path / "j", "sag", script_dir=scripts, templates_dir=shop).folder

    custom = folder / "app" / "custom"
    assert tree(custom) == [".hidden", "linked/b.py", "parts.py", "sub/z.py", "train.py"]
    assert not any(path.is_symlink() for path in custom.rglob("*"))
    assert os.access(custom / "train.py", os.X_OK)


def test_the_code_of_a_project_is_taken_without_its_tools_jobs_and_workspaces(shop, tmp_path):
    code = {"train.py": "", "parts.py": PARTS, "data/a.csv": "1"}
    tools = {".git/HEAD": "", "sub/env/pyvenv.cfg": "", "node_modules/x.js": "", "jobs/old/meta.conf": "deploy_map {}"}
    write(tmp_path / "project", code | tools | {"ws/.fedsag/made": "", "ws/report.json": ""})

    for _ in range(2):
        folder = tmp_path / "project" / "jobs" / "j"
        made = make(folder, "sag", templates_dir=shop, script_dir=tmp_path / "project", force=True)
        assert tree(made.folder / "app" / "custom") == sorted(code)

    (note,) = made.notes
    assert note.startswith(f"-sd {tmp_path / 'project'}: .git, ")
    assert all(name in note for name in (".git", "sub/env", "node_modules", "jobs/old", "jobs/j", "ws"))


def test_the_code_of_a_project_is_taken_without_what_its_ignore_files_name(shop, tmp_path):
    project = tmp_path / "project"
    taken = {"train.py": "", "parts.py": PARTS, "keep.pth": "", "sub/net.py": "", "sub/all.log": "", "small/a.csv": "1"}
    ignored = {"net.pth": "12345", "data/a.csv": "1", "data/deep/b.csv": "2", "sub/data/c.csv": "3", "sub/own.txt": "4"}
    rules = {
        ".gitignore": "# rules\n*.pth\n!keep.pth\ndata/\n*.log\nsmall\n\\\n[z-a]\n",
        ".fedsagignore": "!small/\n",
        "sub/.gitignore": "!*.log\n/own.txt\n",
    }
    write(project, taken | ignored | rules | {"data/.gitignore": "!*"})
    (project / "gone.pth").symlink_to("nowhere")

    made = make(tmp_path / "j", "several", templates_dir=shop, script_dir=project)

    assert tree(made.folder / "app_1" / "custom") == sorted({**taken, **rules})
    (note,) = [note for note in made.notes if "left out" in note]
    assert note == (
        f"-sd {project}: data, gone.pth, net.pth, sub/data, sub/own.txt left out (7 files, 0.0 MB): "
        "a line !NAME in .fedsagignore keeps what .gitignore leaves out"
    )


def test_what_a_project_leaves_out_is_told_with_its_size_and_a_few_names(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsag_cli.job.templates.project._MOST_NAMES", 2)
    write(tmp_path, {".venv/pyvenv.cfg": "", ".gitignore": "*.pth", "train.py": "", "b.pth": "", "c.pth": ""})
    with (tmp_path / "a.pth").open("wb") as file:
        file.truncate(1_250_000)
    project = Project(tmp_path)

    taken = [name for name, _ in project.files()]

    assert taken == [".gitignore", "train.py"]
    (note,) = project.notes()
    assert note == (
        f"-sd {tmp_path}: .venv, a.pth, 2 more left out (4 files, 1.2 MB): files of tools, environments, jobs and "
        "workspaces are not code; a line !NAME in .fedsagignore keeps what .gitignore leaves out"
    )
    monkeypatch.setattr("fedsag_cli.job.templates.project._MOST_FILES", 3)
    assert "(at least 3 files, 1.2 MB)" in next(project.notes())


LEFTOVERS = [
    ".ipynb_checkpoints/x-checkpoint.py", ".DS_Store", "._x", "Thumbs.db", "desktop.ini", "x.py~", "#x.py#",
    ".x.py.swp", "__pycache__/x.pyc", ".nfs000012", ".~lock.x.conf#", "fedsag_local/model.npz",
]  # fmt: skip


def test_leftovers_of_editors_stop_nothing_and_go_nowhere(shop, tmp_path):
    broken = dict.fromkeys(LEFTOVERS, "not = = hocon {")
    write(tmp_path / "scripts", {"train.py": "", "parts.py": PARTS, **broken})
    write(shop, broken)
    for folder in (tmp_path / "scripts", shop / "sag", shop / "sag" / "custom"):
        write(folder, broken)
        (folder / ".#train.py").symlink_to("somebody@somewhere.1234")  # emacs locks a file with a broken link

    made = make(tmp_path / "j", "sag", templates_dir=shop, script_dir=tmp_path / "scripts")

    assert tree(made.folder) == [
        "app/config/config_fed_client.conf",
        "app/config/config_fed_server.conf",
        "app/custom/parts.py",
        "app/custom/train.py",
        "meta.conf",
    ]
    for folder in (made.folder, made.folder / "app", made.folder / "app" / "config", made.folder / "app" / "custom"):
        write(folder, broken | {"train copy.py": "def broken("})
        (folder / ".#train.py").symlink_to("somebody@somewhere.1234")
    write(made.folder / "app" / "config", {"config_fed_server_old.conf": "{{{", "config_fed_client copy.json": "{"})
    assert Job.load(made.folder).apps["app"].client({}).executors[0].script == "custom/train.py"
    assert {row.file for row in variables.of_job(made.folder, shop)} == {
        "meta.conf",
        "config_fed_server.conf",
        "config_fed_client.conf",
    }
    make(tmp_path / "j", "sag", templates_dir=shop, force=True)
    assert [template.name for template in find.all_templates(shop).templates] == ["plain", "sag", "several"]


def test_a_broken_copy_of_a_config_file_in_a_template_is_copied_and_told(shop, tmp_path):
    write(shop / "sag", {"config_fed_server_old.conf": "{{ nothing }} = = {", "more.conf": "rounds = {{ name }}"})

    made = make(tmp_path / "j", "sag", templates_dir=shop)

    config = made.folder / "app" / "config"
    assert (config / "config_fed_server_old.conf").read_text() == "{{ nothing }} = = {"
    assert hocon.load(config / "more.conf") == {"rounds": "j"}
    why = "sag/config_fed_server_old.conf: 'nothing' is undefined"
    assert made.notes == [f"config_fed_server_old.conf was copied unchanged: {why}"]


@pytest.mark.parametrize("link", ["nowhere", "."])
def test_a_link_that_leads_nowhere_or_round_in_a_circle_is_an_error(shop, tmp_path, link):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "link").symlink_to(link)

    with pytest.raises(JobError, match=r"scripts/link is a (broken )?link"):
        make(tmp_path / "j", "sag", script_dir=tmp_path / "scripts", templates_dir=shop)

    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize(
    ("folder", "scripts"),
    [("j", "nowhere"), ("j", "file"), ("s", "s/inner"), ("s", "s"), ("link", "s/inner")],
)
def test_scripts_that_are_not_there_or_lie_within_the_job_are_an_error(shop, tmp_path, folder, scripts):
    write(tmp_path, {"file": "", "s/inner/train.py": ""})
    (tmp_path / "link").symlink_to("s")
    before = tree(tmp_path)

    with pytest.raises(JobError):
        make(tmp_path / folder, "sag", script_dir=tmp_path / scripts, templates_dir=shop, force=True)

    assert tree(tmp_path) == before


def test_an_existing_job_stays_as_it_is_without_force(shop, tmp_path):
    folder = make(tmp_path / "j", "sag", templates_dir=shop).folder
    (folder / "app/custom/train.py").write_text("my work")

    with pytest.raises(JobError, match=r"there is already a job in .*/j") as error:
        make(folder, "sag", templates_dir=shop)

    assert "-force" in error.value.hint
    assert (folder / "app/custom/train.py").read_text() == "my work"


def test_force_replaces_a_job_and_leaves_nothing_of_it(shop, tmp_path):
    folder = make(tmp_path / "jobs" / "j", "sag", templates_dir=shop).folder
    (folder / "app/custom/mine.txt").write_text("")
    (folder / "empty").mkdir()

    made = make(folder, "plain", templates_dir=shop, force=True)

    kept = tmp_path / "jobs" / "j.edits"
    assert made.notes[-1] == (
        f"the old job had files that you changed or added; they are now in {kept}: app/custom/mine.txt"
    )
    assert tree(tmp_path / "jobs") == [
        "j.edits/app/custom/mine.txt",
        "j/app/config/config_fed_client.conf",
        "j/app/config/config_fed_server.conf",
        "j/meta.conf",
    ]


def test_force_keeps_what_was_edited_and_only_that(shop, tmp_path):
    folder = make(tmp_path / "j", "sag", templates_dir=shop).folder
    edits = {"app/config/config_fed_server.conf": SERVER, "app/custom/train.py": "mine", "meta.conf": "deploy_map {}"}
    leftovers = {"app/custom/train.py~": "", ".DS_Store": ""}
    for round_num, name in enumerate(["j.edits", "j.edits-2"]):
        write(folder, {**edits, "app/custom/train.py": f"mine {round_num}", **leftovers})

        make(folder, "sag", templates_dir=shop, force=True)

        assert tree(tmp_path / name) == sorted(edits)
        assert (tmp_path / name / "app/custom/train.py").read_text() == f"mine {round_num}"
        assert (folder / "app/custom/train.py").read_text() == ""
    assert make(folder, "sag", templates_dir=shop, force=True).notes == []


@pytest.mark.parametrize(
    "mine", ["notes.txt", ".git/HEAD", "workspace/site-1/log.txt", "workspace/app/config/x.conf", "meta.d/x"]
)
def test_force_refuses_where_a_file_in_the_job_is_none_of_its_parts(shop, tmp_path, mine):
    folder = make(tmp_path / "jobs" / "j", "sag", templates_dir=shop).folder
    write(folder, {mine: "years of work", "zz.txt": ""})
    before = tree(tmp_path)

    with pytest.raises(JobError, match=rf"-force would remove {folder / mine}, which is not part of the job") as error:
        make(folder, "sag", templates_dir=shop, force=True)

    assert error.value.hint == "move it away"
    assert tree(tmp_path) == before


def test_force_refuses_where_a_link_in_the_job_is_none_of_its_parts(shop, tmp_path):
    folder = make(tmp_path / "jobs" / "j", "sag", templates_dir=shop).folder
    (folder / "data").symlink_to(tmp_path)

    with pytest.raises(JobError, match=r"would remove .*/j/data"):
        make(folder, "sag", templates_dir=shop, force=True)

    assert (folder / "data").is_symlink()


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "years of work"},
        {"src/config/settings.py": "", "meta.json": "{}"},
        {"meta.conf": "deploy_map {}", "info.conf": "", "config_fed_server.conf": ""},
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_job_is_never_removed(shop, tmp_path, files, force):
    write(tmp_path / "precious", files)
    before = tree(tmp_path)

    with pytest.raises(JobError):
        make(tmp_path / "precious", "sag", templates_dir=shop, force=force)

    assert tree(tmp_path) == before


def test_a_file_or_the_current_folder_cannot_become_a_job(shop, tmp_path, monkeypatch):
    write(tmp_path, {"file": "", "here/x/y": ""})
    monkeypatch.chdir(tmp_path / "here" / "x")

    for target in ("../../file", ".", "..", "/"):
        with pytest.raises(JobError):
            make(target, "sag", templates_dir=shop, force=True)


def test_a_template_is_not_replaced_by_the_job_made_from_it(shop):
    for target in (shop / "sag", shop / "sag" / "job", shop):
        with pytest.raises(JobError):
            make(target, "sag", templates_dir=shop, force=True)

    assert (shop / "sag" / "info.conf").exists()


def test_an_empty_folder_becomes_a_job(shop, tmp_path):
    (tmp_path / "j").mkdir()

    assert Job.load(make(tmp_path / "j", "sag", templates_dir=shop).folder)


def test_a_link_to_a_job_stays_a_link(shop, tmp_path):
    make(tmp_path / "real", "plain", templates_dir=shop)
    (tmp_path / "link").symlink_to("real")

    make(tmp_path / "link", "sag", templates_dir=shop, force=True)

    assert (tmp_path / "link").is_symlink()
    assert Job.load(tmp_path / "real").meta.name == "link"


INSIDE = [
    "info.conf",
    "meta.conf",
    "config_fed_server.conf",
    "more.conf",
    "custom",
    "custom/parts.py",
    "custom/x",
    "sub/x",
]


@pytest.mark.parametrize("inside", INSIDE)
def test_a_templates_link_that_leads_out_of_it_is_an_error_naming_it(shop, tmp_path, inside):
    link = shop / "sag" / inside
    away = tmp_path / "secret" / link.name
    away.parent.mkdir()
    link.parent.mkdir(exist_ok=True)
    if link.exists():
        link.rename(away)
    else:
        away.write_text("")
    link.symlink_to(away)

    with pytest.raises(JobError, match=f"shop/sag/{inside} is a link to {away}, outside the template"):
        make(tmp_path / "j", "sag", templates_dir=shop)

    assert not (tmp_path / "j").exists()


def test_a_template_may_link_to_itself_and_to_a_template_beside_it(shop, tmp_path):
    (shop / "sag" / "custom" / "again.py").symlink_to("train.py")
    (shop / "sag" / "custom" / "shared.py").symlink_to("../../several/custom/shared.py")
    (tmp_path / "elsewhere").symlink_to(shop / "sag")

    for template in ("sag", "./elsewhere", str(shop / "sag")):
        made = make(tmp_path / "j", template, templates_dir=shop, force=True)
        assert {"again.py", "shared.py"} <= {path.name for path in (made.folder / "app/custom").iterdir()}
        assert not any(path.is_symlink() for path in made.folder.rglob("*"))


def test_a_folder_beside_a_template_that_is_no_template_is_out_of_its_reach(shop, tmp_path):
    write(shop / ".ssh", {"id": "secret"})
    (shop / "sag" / "custom" / "id").symlink_to("../../.ssh/id")

    with pytest.raises(JobError, match=r"is a link to .*, outside the template"):
        make(tmp_path / "j", str(shop / "sag"))


@pytest.mark.parametrize(
    "inside", ["info.conf", "meta.conf", "config_fed_server.conf", "more.conf", "custom/x", "sub/x"]
)
@pytest.mark.parametrize("of", ["template", "scripts"])
def test_a_pipe_is_an_error_naming_it_and_never_waited_for(shop, tmp_path, inside, of):
    pipe = (shop / "sag" if of == "template" else tmp_path / "scripts") / inside
    pipe.parent.mkdir(parents=True, exist_ok=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)

    with pytest.raises(JobError, match=f"{inside}:? is not a regular file"):
        make(tmp_path / "j", "sag", templates_dir=shop, script_dir=None if of == "template" else tmp_path / "scripts")

    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for i in [[1], [2]] recursive %}{{ loop(i) }}{% endfor %}",
        "{% for i in range(9999) %}" + "x" * 1000 + "{% endfor %}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'a' * 10 ** 11 }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ ''|center(99999999999) }}",
        "{{ 1 / 0 }}",
        "{% set a = name %}" + "{% set a = a ~ a %}" * 50 + "{{ a }}",
        "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(60) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ ''.__class__ }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ name|attr('__class__') }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum() }}",
        "{{ range(3) }}",
        "{{ range('a') }}",
        "{{ name['x'] }}",
        "{{ [][5] }}",
        "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    ],
)
def test_a_template_that_reaches_for_more_or_would_not_end_is_an_error_naming_its_file(shop, tmp_path, text):
    (shop / "sag" / "meta.conf").write_text(META + text)

    with pytest.raises(JobError, match=r"^sag/meta\.conf: "):
        make(tmp_path / "j", "sag", templates_dir=shop)

    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{% if " + "~".join(["name"] * 3000) + " == 1 %}{% endif %}",
        "{% for i in range(9999) %}{% if range(99999)|list|sort|unique|list|length == 3 %}x{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_takes_too_much_time_or_memory_is_an_error_naming_its_file(monkeypatch, text):
    monkeypatch.setattr(bounded, "MOST_SECONDS", 1)
    monkeypatch.setattr(bounded, "MOST_BYTES", 100 << 20)

    with pytest.raises(JobError, match=r"^sag/meta\.conf: it takes more than 1 s or 100 MB to make the file"):
        render(text, {"name": "x" * 900_000}, name="sag/meta.conf")


def test_a_template_may_choose_and_repeat(shop, tmp_path):
    (shop / "sag" / "meta.conf").write_text(
        "min_clients = {{ min_clients + 1 if min_clients is defined and min_clients > 1 else 1 }}\n"
        'deploy_map { app = [{% for i in range(min_clients) %}"site-{{ i + 1 }}", {% endfor %}"server"] }\n'
        "{% if name|upper in ['J'] %}x = {{ name|lower }}{% endif %}\n"
    )

    job = Job.load(make(tmp_path / "j", "sag", templates_dir=shop).folder)

    assert (job.meta.min_clients, job.named_sites()) == (3, ["site-1", "site-2"])
    assert hocon.load(tmp_path / "j" / "meta.conf")["x"] == "j"


def test_a_copy_is_executable_where_the_file_was_and_never_runs_as_its_owner(shop, tmp_path):
    (shop / "sag" / "custom" / "train.py").chmod(0o6755)

    folder = make(tmp_path / "j", "sag", templates_dir=shop).folder

    assert (folder / "app/custom/train.py").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("target", ["x" * 300, "loop", "loop/x", "file/x"])
def test_a_target_the_system_cannot_make_is_an_error(shop, tmp_path, target):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    before = tree(tmp_path)

    with pytest.raises(JobError):
        make(tmp_path / target, "sag", templates_dir=shop)

    assert tree(tmp_path) == before


@pytest.mark.parametrize("inside", ["app", "app/config", "app/custom", "app/custom/parts.py", "meta.conf"])
def test_force_deletes_nothing_behind_a_link(shop, tmp_path, inside):
    folder = make(tmp_path / "j", "sag", templates_dir=shop).folder
    away = tmp_path / "away"
    (folder / inside).rename(away)
    (folder / inside).symlink_to(away)
    before = tree(away), away.is_file() and away.read_text()

    make(folder, "sag", templates_dir=shop, force=True)

    assert (tree(away), away.is_file() and away.read_text()) == before
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_a_full_disk_leaves_the_job_that_was_there_and_nothing_else(shop, tmp_path):
    folder = make(tmp_path / "jobs" / "j", "plain", templates_dir=shop).folder
    (shop / "sag" / "custom" / "large").write_bytes(bytes(1 << 20))
    before = {path: (tmp_path / path).read_bytes() for path in tree(tmp_path)}
    code = (
        "import resource, sys; from pathlib import Path; from fedsag_cli.job.templates.create import create\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "create(Path(sys.argv[1]), 'sag', templates_dir=Path(sys.argv[2]), force=True)"
    )

    done = subprocess.run([sys.executable, "-c", code, str(folder), str(shop)], capture_output=True, text=True)

    assert "JobError" in done.stderr
    assert "File too large" in done.stderr
    assert {path: (tmp_path / path).read_bytes() for path in tree(tmp_path)} == before


@pytest.mark.parametrize("after", ["old", "j"])
def test_an_interrupt_while_jobs_are_exchanged_leaves_one_of_them_whole(shop, tmp_path, monkeypatch, after):
    monkeypatch.setattr(replace_folder, "_swap", lambda *_: False)
    folder = make(tmp_path / "jobs" / "j", "plain", templates_dir=shop).folder
    was = tree(folder)
    rename = type(folder).rename

    def interrupted(self, target):
        rename(self, target)
        if target.name == after:
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(type(folder), "rename", interrupted)

    with pytest.raises(KeyboardInterrupt):
        make(folder, "sag", templates_dir=shop, force=True)

    assert [path.name for path in folder.parent.iterdir()] == ["j"]
    assert (tree(folder) == was) == (after == "old")
    assert Job.load(folder) if after == "j" else True


def test_a_job_that_cannot_be_put_back_is_kept_and_told(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(replace_folder, "_swap", lambda *_: False)
    folder = make(tmp_path / "jobs" / "j", "plain", templates_dir=shop).folder
    rename = type(folder).rename

    def somebody_is_quicker(self, target):
        if self.name == "new":
            write(folder, {"theirs": ""})
        return rename(self, target)

    monkeypatch.setattr(type(folder), "rename", somebody_is_quicker)

    with pytest.raises(JobError, match=r"the old job of .*/j is now in .*/old"):
        make(folder, "sag", templates_dir=shop, force=True)

    assert tree(folder) == ["theirs"]
    assert [path.parent.name for path in (tmp_path / "jobs").rglob("meta.conf")] == ["old"]


CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime", "os.link", "os.chmod", "ctypes.dlsym")


def killed_before_change(number, work):
    """The exit code of a process that does `work`, and is killed before it changes the disk for the nth time."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = iter(range(1, number))

    def watch(event, args):
        if event in CHANGES and next(changes, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new_and_the_next_command_cleans_up(
    tmp_path, monkeypatch, in_one_step
):
    if not in_one_step:
        monkeypatch.setattr(replace_folder, "_swap", lambda *_: False)
    folder = tmp_path / "jobs" / "j"

    def replace(names):
        with replace_folder.new_folder_beside(folder) as part:
            write(part / "new", dict.fromkeys(names, ""))
            replace_folder.exchange(part, folder)

    number, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        number += 1
        replace(["old"])

        code = killed_before_change(number, lambda: replace(["a/new", "b"]))

        assert tree(folder) in (["old"], ["a/new", "b"]) or not in_one_step
        replace_folder.recover(folder.parent)
        assert [path.name for path in folder.parent.iterdir()] == ["j"]
        assert tree(folder) in (["old"], ["a/new", "b"])

    assert (code, tree(folder)) == (0, ["a/new", "b"])
    assert number > 10


def test_the_temporary_folder_of_a_command_that_still_works_is_left_alone(shop, tmp_path):
    with replace_folder.new_folder_beside(tmp_path / "a") as part:
        (part / "new").mkdir()
        (tmp_path / ".fedsag-mine").mkdir()
        write(tmp_path, {".fedsag-mine/target": "", ".fedsag-mine/thesis.tex": ""})

        make(tmp_path / "b", "plain", templates_dir=shop)

        assert (part / "new").is_dir()
        assert (tmp_path / ".fedsag-mine" / "thesis.tex").exists()


def test_a_file_that_comes_into_the_job_meanwhile_is_not_removed(shop, tmp_path, monkeypatch):
    folder = make(tmp_path / "j", "plain", templates_dir=shop).folder
    make_draft = create.make_draft

    def slowly(*args):
        write(folder, {"results.txt": "years of work"})
        return make_draft(*args)

    monkeypatch.setattr(create, "make_draft", slowly)

    with pytest.raises(JobError, match=r"-force would remove .*/j/results\.txt"):
        make(folder, "sag", templates_dir=shop, force=True)

    assert (folder / "results.txt").read_text() == "years of work"


def test_the_old_job_is_put_back_when_the_new_one_cannot_take_its_place(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(replace_folder, "_swap", lambda *_: False)
    folder = make(tmp_path / "j", "plain", templates_dir=shop).folder
    rename = type(folder).rename

    def fails_once(self, target):
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(type(folder), "rename", fails_once)
    before = tree(tmp_path)

    with pytest.raises(JobError, match="No space left on device"):
        make(folder, "sag", templates_dir=shop, force=True)

    assert tree(tmp_path) == before


def test_a_relative_folder_is_the_same_as_the_whole_path(shop, tmp_path):
    asked = [("meta.conf", ["min_clients=7"]), ("app/custom/x.json", ["a=2"])]
    write(tmp_path / "scripts", {"x.json": '{"a": 1}'})

    make("jobs/j", "sag", templates_dir=shop, overrides=asked, script_dir="scripts")

    assert Job.load(tmp_path / "jobs" / "j").meta.min_clients == 7
    assert json.loads((tmp_path / "jobs/j/app/custom/x.json").read_text()) == {"a": 2}


def test_a_variable_the_template_forgot_to_declare_is_an_error_naming_it(shop, tmp_path):
    (shop / "sag" / "meta.conf").write_text("name = {{ nmae }}")

    with pytest.raises(JobError, match=r"sag/meta\.conf: 'nmae' is undefined"):
        make(tmp_path / "j", "sag", templates_dir=shop)


def test_a_template_can_reach_nothing_outside_its_variables(shop, tmp_path):
    (shop / "sag" / "meta.conf").write_text("name = {{ name.__class__.__mro__ }}")

    with pytest.raises(JobError, match=r"sag/meta\.conf"):
        make(tmp_path / "j", "sag", templates_dir=shop)


def test_what_can_be_set_is_shown_with_value_type_default_and_meaning(shop, tmp_path):
    folder = make(tmp_path / "j", "sag", templates_dir=shop, overrides=[("meta.conf", ["min_clients=9"])]).folder

    rows = {(row.file, row.key): row for row in variables.of_job(folder, shop)}

    declared = rows["meta.conf", "min_clients"]
    assert (declared.value, declared.kind, declared.default, declared.meaning) == (9, "int", 2, "sites needed")
    other = rows["config_fed_server.conf", "patience"]
    assert (other.value, other.kind, other.default, other.meaning, other.component) == (3, "int", 3, "", "Flow")
    assert rows["config_fed_client.conf", "execution_mode"].component == "ClientAPIExecutor"
    assert rows["config_fed_server.conf", "weights"].value == {}


def test_an_argument_called_as_a_variable_of_another_component_is_not_the_variable(shop, tmp_path):
    write(shop / "sag", {"custom/parts.py": PARTS + "class Other:\n    def __init__(self, lr: float = 0.1): ...\n"})
    write(shop / "sag", {"config_fed_server.conf": SERVER + 'components = [ { id = "o", path = "parts.Other" } ]\n'})
    folder = make(tmp_path / "j", "sag", templates_dir=shop, overrides=[("config_fed_server.conf", ["lr=3"])]).folder

    rows = {row.key: row for row in variables.of_job(folder, shop) if row.key.endswith("lr")}

    assert {key: (row.is_variable, row.value, row.component) for key, row in rows.items()} == {
        "lr": (True, 3.0, "Flow"),
        "components[0].args.lr": (False, 0.1, "Other"),
    }


def test_a_job_far_from_its_template_still_shows_values_and_types(shop, tmp_path):
    make(tmp_path / "j", "sag", templates_dir=shop).folder.rename(tmp_path / "moved")
    shop.rename(tmp_path / "gone")

    rows = {(row.file, row.key): row for row in variables.of_job(tmp_path / "moved")}

    row = rows["config_fed_server.conf", "num_rounds"]
    assert (row.value, row.kind, row.default, row.meaning) == (5, "int", None, "")


def test_every_key_that_is_shown_can_be_set_by_that_name(shop, tmp_path):
    for template in ("sag", "several"):
        folder = make(tmp_path / template, template, templates_dir=shop).folder
        for row in variables.of_job(folder, shop):
            text = row.value if isinstance(row.value, str) else hocon.literal(row.value)
            make(
                tmp_path / "x", template, overrides=[(row.file, [f"{row.key}={text}"])], templates_dir=shop, force=True
            )


def test_a_key_at_the_top_that_others_are_called_like_is_shown_as_it_can_be_set(shop, tmp_path):
    (shop / "plain" / "config_fed_client.conf").write_text("x = 1\na { x = 2 }")
    folder = make(tmp_path / "j", "plain", templates_dir=shop).folder

    keys = [row.key for row in variables.of_job(folder) if row.file == "config_fed_client.conf"]
    asked = [("config_fed_client.conf", [f"{key}={number}" for number, key in enumerate(keys, 5)])]
    make(folder, "plain", overrides=asked, templates_dir=shop, force=True)

    assert keys == ['"x"', "a.x"]
    assert hocon.load(folder / "app/config/config_fed_client.conf") == {"x": 5, "a": {"x": 6}}


def test_a_folder_that_is_no_job_has_nothing_to_show(tmp_path):
    with pytest.raises(JobError, match="is not a job"):
        variables.of_job(tmp_path)


SHIPPED = sorted(path.name for path in (Path(__file__).resolve().parents[3] / "job_templates").iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_template_makes_a_job_that_reads(tmp_path, monkeypatch, name):
    monkeypatch.delenv("FEDSAG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    made = make(tmp_path / "j", name)

    assert (made.notes, made.warnings, made.refusals) == ([], [], [])
    job = Job.load(made.folder)
    assert job.app_for("server").server({"SITE_NAME": "server"}).workflows
    app = job.app_for("site-1")
    script = app.client({"SITE_NAME": "site-1"}).executors[0].script
    assert Path(script).parts[0] == "custom"
    assert (app.custom.parent / script).is_file()
    rows = variables.of_job(made.folder)
    declared = [row for row in rows if row.is_variable]
    assert len(declared) == len(find.find_template(name).variables)
    assert all(row.value == row.default for row in declared)
    assert [row.key for row in rows if not row.meaning] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_template_does_not_claim_that_the_simulator_asks_for_sites(name):
    template = find.find_template(name)

    assert not [each.meaning for each in template.variables if each.file == "meta.conf" and each.meaning]
    comments = (template.folder / "meta.conf").read_text()
    assert "the simulator runs with the clients it is given" in meta.KEYS["min_clients"]
    assert "The simulator uses the clients it is given" in comments
    assert "The simulator does not check this" in comments


def test_a_folder_is_a_job_only_with_a_deploy_map_or_an_app(tmp_path):
    write(
        tmp_path, {"a/meta.conf": "deploy_map {}", "b/app/config/config_fed_client.json": "", "c/meta.conf": "name = x"}
    )

    assert [replace_folder.is_job(tmp_path / name) for name in "abc"] == [True, True, False]
