"""A job folder: what is read from it, and what is refused."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from fedsag_cli.arguments import Least
from fedsag_cli.catalog import build, signature_of
from fedsag_cli.errors import JobError
from fedsag_cli.job import Job
from fedsag_cli.job.templates import variables
from fedsag_cli.model import ParamsType
from fedsag_cli.plan import ComponentSpec, FilterSpec
from fedsag_cli.workspace import SERVER

META = 'name = "j"\nmin_clients = 2\ndeploy_map { app = ["@ALL"] }\n'
SERVER_CONF = """
format_version = 2
rounds = 3
workflows = [ { id = "flow", path = "parts.Flow", args { num_rounds = "{rounds}", part_id = "part" } } ]
components = [
  { id = "part", path = "parts.Part", args { model { path = "{model}", args { num_classes = 4 } } } }
  { id = "off", path = "no.such.Thing", disabled = true }
]
model = "parts.Net"
"""
CLIENT_CONF = """
format_version = 2
app_script = "train.py"
app_config = "--batch_size 6 --root {CIFAR10_ROOT} --name 'a b'"
executors = [ {
  tasks = ["train", "validate"]
  executor { path = "ClientAPIExecutor", args {
    execution_mode = "external_process"
    command = "python3 -u custom/{app_script}  {app_config} --site {SITE_NAME}"
    params_exchange_format = "pytorch", params_transfer_type = "DIFF", launch_once = false, train_with_evaluation = true
    memory_gc_rounds = 2, heartbeat_timeout = 30, launch_timeout = 5.5
  } }
} ]
"""
PARTS = """
class Flow:
    def __init__(self, part, *, num_rounds: int = 5, names: list[str] | None = None): ...
class Part:
    def __init__(self, model, weight: float = 1.0): ...
class Net:
    def __init__(self, num_classes: int = 10): ...
class Keep:
    def __init__(self, pattern: str): ...
"""


@pytest.fixture
def job(tmp_path):
    """Writes a job folder of one app, each file as given or as above."""

    def write(meta=META, server=SERVER_CONF, client=CLIENT_CONF, apps=("app",)):
        folder = tmp_path / "my_job"
        for app in apps:
            (folder / app / "config").mkdir(parents=True, exist_ok=True)
            (folder / app / "custom" / "deep").mkdir(parents=True, exist_ok=True)
            for name, text in (("config_fed_server.conf", server), ("config_fed_client.conf", client)):
                if text is not None:
                    (folder / app / "config" / name).write_text(text)
            (folder / app / "custom" / "parts.py").write_text(PARTS)
            (folder / app / "custom" / "deep" / "train.py").write_text("")
        if meta is not None:
            (folder / "meta.conf").write_text(meta)
        return folder

    return write


def server_of(folder):
    return Job.load(folder).app_for(SERVER).server({"SITE_NAME": SERVER})


def client_of(folder, site="site-1"):
    (executor,) = Job.load(folder).app_for(site).client({"SITE_NAME": site}).executors
    return executor


def client_conf(args, tasks='["train"]', path="ClientAPIExecutor"):
    return f'executors = [ {{ tasks = {tasks}, executor {{ path = "{path}", args {{ {args} }} }} }} ]'


def test_a_job_is_read_into_types(job):
    loaded = Job.load(job())

    assert (loaded.meta.name, loaded.meta.min_clients, dict(loaded.meta.deploy_map)) == ("j", 2, {"app": ("@ALL",)})
    assert loaded.named_sites() == []
    assert loaded.app_for("site-7") is loaded.app_for(SERVER) is loaded.apps["app"]


def test_the_servers_config_is_read_with_its_placeholders_resolved(job):
    conf = server_of(job())

    (flow,), (part,) = conf.workflows, conf.components
    assert (flow.id, flow.path, flow.args) == ("flow", "parts.Flow", {"num_rounds": 3, "part_id": "part"})
    assert part.args == {"model": {"path": "parts.Net", "args": {"num_classes": 4}}}


def test_the_clients_config_is_read_for_one_site(job):
    client = client_of(job(), "site-2")

    words = ["--batch_size", "6", "--root", "{CIFAR10_ROOT}", "--name", "a b", "--site", "site-2"]
    assert list(client.command) == ["python3", "-u", "custom/train.py", *words]
    assert client.script == "custom/train.py"
    config = client.config
    assert (config.tasks, config.exchange_format, config.transfer_type) == (
        ("train", "validate"),
        "pytorch",
        ParamsType.DIFF,
    )
    assert (config.launch_once, config.train_with_evaluation, config.memory_gc_rounds) == (False, True, 2)


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ('"python custom/a.py"', "custom/a.py"),
        ('"python3.11 -u custom/a.py -x"', "custom/a.py"),
        ('["python3", "-u", "custom/my script.py", "a b"]', "custom/my script.py"),
        ('"python3 -m package"', None),
        ('"torchrun --nproc 2 custom/a.py"', None),
        ('"/usr/bin/python3 custom/a.py"', None),
        ('"python3"', None),
    ],
)
def test_a_command_of_python_tells_its_script(job, command, script):
    folder = job(client=client_conf(f'execution_mode = "external_process", command = {command}'))

    assert client_of(folder).script == script


def test_in_process_finds_the_script_below_custom(job):
    args = 'execution_mode = "in_process", task_script_path = "train.py", task_script_args = "--n \\"a b\\" -x"'

    client = client_of(job(client=client_conf(args)))

    assert list(client.command) == ["python3", "-u", "custom/deep/train.py", "--n", "a b", "-x"]
    assert client.script == "custom/deep/train.py"


def test_a_script_without_arguments_may_have_null(job):
    args = 'execution_mode = "in_process", task_script_path = "train.py", task_script_args = null'

    assert list(client_of(job(client=client_conf(args))).command) == ["python3", "-u", "custom/deep/train.py"]


def test_in_process_a_script_that_is_not_there_yet_is_no_error(job):
    folder = job(client=client_conf('execution_mode = "in_process", task_script_path = "later.py"'))

    assert client_of(folder).script == "custom/later.py"


def test_in_process_an_absolute_path_is_the_script_itself_or_the_one_in_custom(job, tmp_path):
    def script_of(path):
        return client_of(job(client=client_conf(f'execution_mode = "in_process", task_script_path = "{path}"'))).script

    custom = job() / "app" / "custom"
    (tmp_path / "installed.py").touch()
    (tmp_path / "train.py").touch()
    (tmp_path / "link").symlink_to(custom)

    assert script_of(tmp_path / "installed.py") == str(tmp_path / "installed.py")
    assert script_of(tmp_path / "train.py") == str(tmp_path / "train.py")
    assert script_of(custom / "deep" / "train.py") == "custom/deep/train.py"
    assert script_of(tmp_path / "link" / "deep" / "train.py") == "custom/deep/train.py"
    assert script_of("/where/it/was/written/train.py") == "custom/deep/train.py"
    assert script_of("/nowhere/nobody.py") == "/nowhere/nobody.py"


def test_the_execution_mode_is_kept(job):
    in_process = client_conf('execution_mode = "in_process", task_script_path = "train.py"')

    assert client_of(job(client=in_process)).in_process
    assert not client_of(job(client=client_conf('execution_mode = "external_process", command = "x"'))).in_process


def test_nvflares_class_path_of_the_executor_is_known(job):
    path = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"

    assert client_of(job(client=client_conf('execution_mode = "external_process", command = "x"', path=path)))


@pytest.mark.parametrize(
    ("client", "says", "hint"),
    [
        ("", "executors is missing", ""),
        (client_conf(""), "args.execution_mode is missing", ""),
        (client_conf('execution_mode = "attach"'), "must be 'external_process' or 'in_process', not 'attach'", ""),
        (client_conf('execution_mode = "in_process"'), "task_script_path is missing", "'in_process' needs it"),
        (client_conf('execution_mode = "external_process"'), "command is missing", ""),
        (client_conf('execution_mode = "external_process", command = " "'), "command is empty", ""),
        (client_conf('execution_mode = "external_process", command = "a \'b"'), "cannot be split", ""),
        (client_conf('execution_mode = "in_process", command = "x", task_script_path = "a"'), "command goes with", ""),
        (client_conf('execution_mode = "in_process", task_script_path = "../a"'), "must be the path of a script", ""),
        (client_conf('comand = "x"'), "takes no argument 'comand'", "'command'"),
        (client_conf('execution_mode = "in_process", launch_once = 1'), "launch_once must be true or false, not 1", ""),
        (
            client_conf('execution_mode = "external_process", command = "x", params_transfer_type = "DIF"'),
            "params_transfer_type must be 'FULL' or 'DIFF' (did you mean 'DIFF'?), not 'DIF'",
            "",
        ),
        (client_conf('execution_mode = "external_process", command = "x"', tasks="[]"), "tasks is empty", ""),
        (client_conf("", path="ClientApiExecutor"), "ClientApiExecutor", ""),
        ("format_version = 3\nexecutors = []", "format_version must be 2, not 3", ""),
        (client_conf("") + '\ncomponents = [ { id = "tb", path = "x.Y" } ]', "components[0]", "remove it"),
        ("executors = 5", "executors must be a list of objects, not 5", ""),
        ("executors = [ 5 ]", "executors must be a list of objects, not 5", ""),
        ('a = "{b}"\nb = "{a}"', "a refers to itself: a -> b -> a", ""),
    ],
)
def test_a_wrong_client_config_is_an_error_naming_file_and_key(job, client, says, hint):
    with pytest.raises(JobError) as error:
        client_of(job(client=client))

    assert error.value.message.startswith("app/config/config_fed_client.conf: ")
    assert says in error.value.message
    assert hint in error.value.hint


def test_two_executors_for_one_task_are_an_error(job):
    entry = '{ tasks = ["train"], executor { path = "ClientAPIExecutor", args { execution_mode = "in_process" } } }'

    with pytest.raises(JobError, match=r"executors\[1\]\.tasks has 'train'"):
        client_of(job(client=f"executors = [ {entry}, {entry} ]"))


def test_executors_with_other_scripts_or_settings_are_apart_and_those_that_differ_in_tasks_only_are_one(job):
    def entry(task, script, more=""):
        args = f'execution_mode = "in_process", task_script_path = "{script}" {more}'
        return f'{{ tasks = ["{task}"], executor {{ path = "ClientAPIExecutor", args {{ {args} }} }} }}'

    entries = [
        entry("train", "a.py"),
        entry("validate", "b.py"),
        entry("submit_model", "a.py"),
        entry("fit", "a.py", ", launch_once = false"),
    ]

    client = Job.load(job(client=f"executors = [{', '.join(entries)}]")).app_for("site-1").client({"SITE_NAME": "s"})

    found = [(each.script, each.config.tasks, each.config.launch_once) for each in client.executors]
    assert found == [
        ("custom/a.py", ("train", "submit_model"), True),
        ("custom/b.py", ("validate",), True),
        ("custom/a.py", ("fit",), False),
    ]


@pytest.mark.parametrize(
    ("was", "becomes", "says", "hint"),
    [
        ("parts.Flow", "parts.Flw", "parts.py has no class 'Flw'", "'Flow'"),
        ("parts.Flow", "part.Flow", "there is no module 'part'", ""),
        ("parts.Flow", "ScatterAndGathr", "there is no component", "'ScatterAndGather'"),
        ("num_rounds", "num_round", "parts.Flow takes no argument 'num_round'", "'num_rounds'"),
        ('"{rounds}"', '"five"', "args.num_rounds must be a whole number, not 'five'", ""),
        ('"{rounds}"', "true", "args.num_rounds must be a whole number, not True", ""),
        ('part_id = "part"', "", "args.part is missing", ""),
        ('part_id = "part"', 'part_id = "prt"', "args.part_id is 'prt': there is no component with that id", "'part'"),
        ("num_classes", "num_class", "parts.Net takes no argument 'num_class'", "'num_classes'"),
        ('model = "parts.Net"', 'model = "parts.Nt"', "no class 'Nt'", "'Net'"),
        ('id = "off"', 'id = "part"', "", ""),
        ('id = "part"', 'id = "flow"', "", ""),
        ('id = "part",', "", "components[0].id is missing", ""),
        (", disabled = true", "", "components[1]", ""),
        ("workflows", "workflow", "workflows is missing", ""),
        ("num_rounds =", "names = [1], num_rounds = 5 s #", "duration", ""),
    ],
)
def test_a_wrong_server_config_is_an_error_naming_file_and_key(job, was, becomes, says, hint):
    text = SERVER_CONF.replace(was, becomes, 1)
    if was == 'id = "off"':
        text = text.replace(", disabled = true", "").replace("no.such.Thing", "parts.Net")

    with pytest.raises(JobError) as error:
        server_of(job(server=text))

    assert error.value.message.startswith("app/config/config_fed_server.conf: ")
    assert says in error.value.message
    assert hint in error.value.hint


LEAST = [
    (argument.name, int(rule.value))
    for argument in signature_of("ScatterAndGather").arguments
    for rule in argument.rules
    if isinstance(rule, Least) and not argument.needs
]


@pytest.mark.parametrize("path", ["ScatterAndGather", "fedsag_cli.workflows.scatter_and_gather.ScatterAndGather"])
@pytest.mark.parametrize(("name", "least"), LEAST)
def test_a_job_refuses_the_numbers_that_the_workflow_refuses_and_no_others(job, path, name, least):
    def text(value):
        args = f'aggregator_id = "a", persistor_id = "p", {name} = {value}'
        parts = '{ id = "a", path = "parts.Net" }, { id = "p", path = "parts.Net" }'
        return f'workflows = [ {{ path = "{path}", args {{ {args} }} }} ], components = [ {parts} ]'

    def made(value):
        return build(ComponentSpec(path=path, args={"aggregator": None, "persistor": None, name: value}), {})

    with pytest.raises(
        JobError, match=rf"workflows\[0\]\.args\.{name} must be a number from {least} on, not {least - 1}"
    ):
        server_of(job(server=text(least - 1)))
    with pytest.raises(JobError, match=f"{name} must be a number from {least} on, not {least - 1}"):
        made(least - 1)
    assert server_of(job(server=text(least))).workflows
    assert made(least)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("num_clients = 0", "num_clients must be a number from 1 on, not 0"),
        ("patience = 0", "patience must be a number from 1 on, not 0"),
        ("patience = 3", "patience needs stop_cond, which is not given"),
        ("fedprox_mu = -1", "fedprox_mu must be a number from 0 on, not -1"),
        ('stop_cond = "nonsense"', "stop_cond must be a metric, one of >= <= > < =, and a number, such as"),
        ("num_rounds = 0", "num_rounds must be a number from 1 on, not 0"),
        ("num_rounds = [1]", "num_rounds must be a whole number, not [1]"),
    ],
)
def test_a_job_that_holds_a_wrong_value_is_refused_naming_file_key_and_value(job, args, says):
    flow = f'path = "ScatterAndGather", args {{ aggregator_id = "a", persistor_id = "p", {args} }}'
    parts = '{ id = "a", path = "FedAvg" }, { id = "p", path = "NPModelPersistor" }'

    with pytest.raises(JobError) as error:
        server_of(job(server=f"workflows = [ {{ {flow} }} ], components = [ {parts} ]"))

    assert error.value.message.startswith(f"app/config/config_fed_server.conf: workflows[0].args.{says}")


@pytest.mark.parametrize(
    ("path", "args", "says"),
    [
        (
            "FedAvg",
            "aggregation_weights { site-1 = -1 }",
            "aggregation_weights must map every name to a number",
        ),
        ("FedAvg", 'exclude_vars = "("', "exclude_vars must be a regular expression"),
        ("FedAvg", 'exclude_vars = ["a", "("]', "exclude_vars must be a regular expression"),
        ("FedAvg", "exclude_vars = 5", "exclude_vars must be a text or a list, not 5"),
        (
            "TBAnalyticsReceiver",
            'tb_folder = "models"',
            "tb_folder must be a folder name",
        ),
        ("WandBReceiver", 'mode = "of"', "mode must be 'offline' or 'online'"),
        ("WandBReceiver", 'wandb_args = "x"', "wandb_args must be an object, not 'x'"),
        ("parts.Declared", "size = 0", "size must be a number from 1 on, not 0"),
    ],
)
def test_a_component_with_a_wrong_value_is_refused_be_it_the_users_own(job, path, args, says):
    server = SERVER_CONF.replace(
        "components = [", f'components = [ {{ id = "x", path = "{path}", args {{ {args} }} }}, '
    )
    own = "from typing import Annotated\nfrom fedsag_cli.arguments import Least\n"
    own += "class Declared:\n    def __init__(self, size: Annotated[int, Least(1)] = 1): ...\n"
    folder = job(server=server)
    (folder / "app/custom/parts.py").write_text((folder / "app/custom/parts.py").read_text() + own)

    with pytest.raises(JobError) as error:
        server_of(folder)

    assert f"args.{says}" in error.value.message


def test_filters_are_read_as_chains(job):
    chain = '[ { tasks = ["train"], filters = [ { path = "parts.Keep", args { pattern = "x" } } ] } ]'
    folder = job(
        server=SERVER_CONF + f"task_data_filters = {chain}", client=CLIENT_CONF + f"task_result_filters = {chain}"
    )
    link = FilterSpec(tasks=["train"], path="parts.Keep", args={"pattern": "x"})

    assert server_of(folder).task_data_filters == [link]
    assert client_of(folder).config.task_result_filters == [link]


def test_a_filter_for_the_other_direction_is_refused_rather_than_ignored(job):
    chain = '[ { tasks = ["train"], direction = "in", filters = [] } ]'

    with pytest.raises(JobError, match=r"task_data_filters\[0\]\.direction must be 'out'"):
        server_of(job(server=SERVER_CONF + f"task_data_filters = {chain}"))


def test_json_is_read_before_conf(job):
    folder = job()
    (folder / "meta.json").write_text(json.dumps({"name": "other", "deploy_map": {"app": {"sites": ["@all"]}}}))

    assert Job.load(folder).meta.name == "other"
    assert Job.load(folder).meta.deploy_map == {"app": ("@ALL",)}


def test_several_apps_go_to_their_sites(job):
    meta = 'deploy_map { app_server = ["server"], app_1 = ["site-1"], app_2 { sites = ["a", "b"] } }'
    loaded = Job.load(job(meta, apps=("app_server", "app_1", "app_2")))

    assert loaded.meta.name == "my_job"
    assert loaded.named_sites() == ["site-1", "a", "b"]
    assert loaded.app_for("b").name == "app_2"
    with pytest.raises(JobError, match="no app for site 'site-2'"):
        loaded.app_for("site-2")


@pytest.mark.parametrize(
    ("meta", "says", "hint"),
    [
        (None, "is not a job: there is no meta.conf", "my_job/app"),
        ("name = 5", "name must be a text, not 5", ""),
        ("min_clients = 0", "min_clients must be at least 1, not 0", ""),
        ('min_clients = "2"', "min_clients must be a whole number, not '2'", ""),
        ("min_client = 2", "min_client: there is no such key", "'min_clients'"),
        ("deploy_map {}", "is empty", ""),
        ('deploy_map { ap = ["@ALL"] }', "no app 'ap'", "'app'"),
        ('deploy_map { app = "@ALL" }', "deploy_map.app must be a list of sites", ""),
        ('deploy_map { app = ["@ALL", "site-1"] }', "@ALL means every site", ""),
        ('deploy_map { app = ["server", "site-1"], other = ["site-1"] }', "'site-1', which app names too", ""),
        ('deploy_map { app = ["site-1"] }', "must name an app for 'server'", ""),
        ('mandatory_clients = ["x"]\ndeploy_map { app = ["server", "y"] }', "mandatory_clients names 'x'", ""),
        ('deploy_map { "../my_job/app" = ["@ALL"] }', "no app '../my_job/app'", ""),
    ],
)
def test_a_wrong_meta_is_an_error_naming_the_key(job, meta, says, hint):
    folder = job(meta if meta is None or "deploy_map" in meta else meta + '\ndeploy_map { app = ["@ALL"] }')

    with pytest.raises(JobError) as error:
        Job.load(folder)

    assert says in error.value.message
    assert hint in error.value.hint


def test_keys_of_others_in_meta_are_none_of_our_business(job):
    assert Job.load(job(META + "required_clients = 2\nresource_spec {}\nmy_own = [1]"))


@pytest.mark.parametrize(
    "inside",
    [
        "meta.conf",
        "meta.json",
        "app",
        "app/config",
        "app/config/config_fed_server.conf",
        "app/config/other.conf",
        "app/custom",
        "app/custom/parts.py",
        "app/custom/deep/data",
        "app/notes.txt",
    ],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_that_leads_out_of_the_job_is_an_error_naming_it(job, tmp_path, inside, absolute):
    link = job() / inside
    away = tmp_path / "away" / link.name
    away.parent.mkdir()
    link.parent.mkdir(exist_ok=True)
    if link.exists():
        link.rename(away)
    else:
        away.write_text("")
    link.symlink_to(away if absolute else os.path.relpath(away, link.parent))

    with pytest.raises(JobError) as error:
        Job.load(tmp_path / "my_job")

    assert error.value.message == f"{link} is a link to {away}, outside the job"
    assert error.value.exit_code == 3


def test_links_within_the_job_and_to_the_job_are_followed(job, tmp_path):
    folder = job(
        'deploy_map { app_server = ["server"], app = ["site-1"], twin = ["site-2"] }', apps=("app_server", "app")
    )
    (folder / "shared").mkdir()
    (folder / "app" / "custom" / "parts.py").rename(folder / "shared" / "parts.py")
    (folder / "app" / "custom" / "parts.py").symlink_to("../../shared/parts.py")
    (folder / "app" / "custom" / "all").symlink_to(folder / "shared")
    (folder / "twin").symlink_to("app")
    (tmp_path / "link").symlink_to("my_job")

    assert Job.load(folder).app_for("site-2").client({"SITE_NAME": "site-2"}).executors[0].script == "custom/train.py"
    assert Job.load(tmp_path / "link").app_for(SERVER).server({"SITE_NAME": SERVER}).workflows


@pytest.mark.parametrize(
    ("link", "target", "says"),
    [
        ("app/custom/x", "nowhere", "is a broken link"),
        ("app/custom/x", "x", "is a broken link"),
        ("app/custom/x", ".", "is a link to a folder it is in"),
        ("app/custom/deep/x", "../../..", "is a link to a folder it is in"),
        ("app/custom/x", "/dev/zero", "is a link to /dev/zero, outside the job"),
    ],
)
def test_a_link_that_cannot_be_followed_is_an_error_naming_it(job, link, target, says):
    folder = job()
    (folder / link).symlink_to(target)

    with pytest.raises(JobError, match=rf"my_job/{link} is a (broken )?link.*") as error:
        Job.load(folder)

    assert says in error.value.message


def test_links_to_folders_of_links_are_an_error_before_they_fill_the_disk(job):
    folder = job()
    for number in range(40):
        (folder / "app" / "custom" / f"d{number}").mkdir()
        for name in "ab":
            (folder / "app" / "custom" / f"d{number}" / name).symlink_to(f"../{f'd{number - 1}' if number else 'deep'}")

    with pytest.raises(JobError, match="folders and links are nested too deeply"):
        Job.load(folder)


@pytest.mark.parametrize("inside", ["meta.conf", "meta.json", "app/config/config_fed_server.conf", "app/custom/x.py"])
def test_a_pipe_in_a_job_is_an_error_naming_it_and_never_waited_for(job, inside):
    pipe = job() / inside
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)

    with pytest.raises(JobError, match=f"{inside} is not a regular file"):
        Job.load(pipe.parents[inside.count("/")])
    with contextlib.suppress(JobError):
        variables.of_job(pipe.parents[inside.count("/")])


@pytest.mark.parametrize("script", ["../secret.py", "custom/../../secret.py", "custom/../.."])
def test_a_script_outside_the_app_is_an_error_naming_the_key(job, script):
    folder = job(client=CLIENT_CONF.replace("custom/{app_script}", script))

    with pytest.raises(JobError, match=rf"executor\.args\.command starts '{script}', which is outside the app"):
        client_of(folder)


@pytest.mark.parametrize("script", ["*.py", "**x.py", "[.py", "**", "a\0.py"])
def test_a_script_is_no_pattern(job, script):
    folder = job(client=client_conf(f'execution_mode = "in_process", task_script_path = "{script}"'))

    assert client_of(folder).script == f"custom/{script}"


@pytest.mark.parametrize(
    "path", ["/etc/x.Flow", "../../x.Flow", "...Flow", "/.Flow", "a b.Flow", "parts.Flow ", "a\0.X"]
)
def test_a_class_path_is_no_path_of_files(job, path):
    with pytest.raises(JobError, match=r"workflows\[0\]: .* is not a class"):
        server_of(job(server=SERVER_CONF.replace("parts.Flow", path)))


@pytest.mark.parametrize("source", ["x = " + "-" * 100_000 + "1", "x = a" + ".a" * 5000, "x = 1\0", "x = " + "(" * 500])
def test_a_module_python_cannot_read_is_an_error_naming_the_component(job, source):
    folder = job()
    (folder / "app" / "custom" / "parts.py").write_text(source)

    with pytest.raises(JobError, match=r"workflows\[0\]: 'parts\.Flow': "):
        server_of(folder)


def test_a_name_too_long_for_the_system_is_an_error(tmp_path):
    for call in (Job.load, variables.of_job):
        with pytest.raises(JobError, match="cannot be read: File name too long"):
            call(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("missing", "says"), [("server", "no config_fed_server.conf"), ("client", "no config_fed_client.conf")]
)
def test_an_app_without_the_config_its_sites_need_is_an_error(job, missing, says):
    with pytest.raises(JobError, match=says):
        Job.load(job(**{missing: None}))


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(JobError, match=r"there is no job folder .*nowhere"):
        Job.load(tmp_path / "nowhere")


def test_reading_a_job_imports_no_torch_and_no_numpy(job):
    code = (
        "import sys; from pathlib import Path; from fedsag_cli.job import Job\n"
        "from fedsag_cli.job.templates import create, variables\n"
        "job = Job.load(Path(sys.argv[1])); job.app_for('server').server({}); job.app_for('site-1').client({})\n"
        "variables.of_job(Path(sys.argv[1]))\n"
        "print([name for name in ('torch', 'numpy', 'safetensors') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code, str(job())], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_workflow_that_is_disabled_is_none(tmp_path):
    from runs import job as make

    folder = make(tmp_path / "j")
    file = folder / "app/config/config_fed_server.json"
    conf = json.loads(file.read_text())
    conf["workflows"].append({**conf["workflows"][0], "id": "off", "disabled": True})
    file.write_text(json.dumps(conf))

    server = Job.load(folder).app_for("server").server({})

    assert [flow.id for flow in server.workflows] == ["scatter_and_gather"]


def test_errors_name_the_meta_file_and_the_config_file_as_they_are_there(tmp_path):
    config = tmp_path / "job" / "app" / "config"
    config.mkdir(parents=True)
    (config / "config_fed_server.json").write_text("{}")
    (tmp_path / "job" / "meta.json").write_text('{"name": "j", "deploy_map": {"app": ["@ALL"]}}')

    with pytest.raises(JobError, match=r"^meta.json: deploy_map.app: app/config has no config_fed_client.json, which"):
        Job.load(tmp_path / "job")
    (tmp_path / "job" / "meta.json").write_text('{"name": "j", "deploy_map": {"app": ["server"]}}')
    with pytest.raises(JobError, match=r"^meta.json: deploy_map has no app for site 'site-1'"):
        Job.load(tmp_path / "job").app_for("site-1")
