"""`--set KEY=VALUE`: which file of a job it is for, and what the run gets. The files stay as they are."""

import pytest

from fedsag_cli.errors import JobError
from fedsag_cli.job import Job
from fedsag_cli.job.config import placeholders
from fedsag_cli.job.templates.set_values import with_values
from fedsag_cli.workspace import SERVER

CONFIG_SERVER = """
num_rounds = 2
workflows = [{ id = "w", path = "ScatterAndGather", args {
  aggregator_id = "a", persistor_id = "p", num_rounds = "{num_rounds}", min_clients = 2 } }]
components = [{ id = "a", path = "FedAvg", args {} }, { id = "p", path = "NPModelPersistor", args {} }]
"""
CONFIG_CLIENT = """
lr = 0.5
app_config = "--lr {lr}"
executors = [{ tasks = ["train"], executor { path = "ClientAPIExecutor", args {
  execution_mode = "external_process", command = "python3 -u custom/train.py {app_config}" } } }]
"""


@pytest.fixture
def job(tmp_path):
    """Writes a job of these apps and reads it."""

    def make(*apps):
        apps = apps or ("app",)
        folder = tmp_path / "job"
        for app in apps:
            (folder / app / "config").mkdir(parents=True)
            (folder / app / "config" / "config_fed_server.conf").write_text(CONFIG_SERVER)
            (folder / app / "config" / "config_fed_client.conf").write_text(CONFIG_CLIENT)
            (folder / app / "custom").mkdir()
        sites = {
            app: ["server", "site-1"] if number == 0 else [f"site-{number + 1}"] for number, app in enumerate(apps)
        }
        deploy_map = ", ".join(f"{app} = [{', '.join(sites[app])}]" for app in apps)
        (folder / "meta.conf").write_text(f'name = "j"\nmin_clients = 1\ndeploy_map {{ {deploy_map} }}\n')
        return Job.load(folder)

    return make


def num_rounds(job):
    return job.app_for(SERVER).server(placeholders.nowhere(SERVER)).workflows[0].args["num_rounds"]


def words_of(job, site):
    [executor] = job.app_for(site).client(placeholders.nowhere(site)).executors
    return executor.command[3:]


def test_a_key_is_set_in_the_one_file_that_knows_it_and_no_file_is_changed(job):
    read = job()
    before = {path: path.read_bytes() for path in read.folder.rglob("*.conf")}

    changed = with_values(read, ["num_rounds=7", "lr=0.01"])

    assert num_rounds(changed) == 7
    assert words_of(changed, "site-1") == ["--lr", "0.01"]
    assert {path: path.read_bytes() for path in read.folder.rglob("*.conf")} == before


def test_the_settings_that_are_recorded_have_the_value(job):
    changed = with_values(job(), ["num_rounds=7", "min_clients=1"])

    written = changed.written()["app/config/config_fed_server.conf"]
    assert written["num_rounds"] == 7
    assert written["workflows"][0]["args"]["min_clients"] == 1
    assert changed.written()["meta.conf"]["min_clients"] == 1, "the config files come before meta.conf"


def test_a_later_word_wins_and_a_key_with_a_minus_is_removed(job):
    changed = with_values(job(), ["num_rounds=7", "num_rounds=9", "workflows[0].args.min_clients-"])

    assert num_rounds(changed) == 9
    assert "min_clients" not in changed.written()["app/config/config_fed_server.conf"]["workflows"][0]["args"]


def test_a_key_that_several_files_know_is_set_where_the_word_says(job):
    changed = with_values(job("app_1", "app_2"), ["app_2/config_fed_client.conf:lr=0.25"])

    assert words_of(changed, "site-1") == ["--lr", "0.5"]
    assert words_of(changed, "site-2") == ["--lr", "0.25"]


def test_a_colon_and_an_equals_sign_in_a_value_belong_to_it(job):
    changed = with_values(job(), ["app_config=--data a.conf:b=c"])

    assert words_of(changed, "site-1") == ["--data", "a.conf:b=c"]


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("num_round=3", "the job has no key 'num_round'", "did you mean 'num_rounds'?"),
        ("num_rounds=three", "config_fed_server.conf: num_rounds must be a whole number, not 'three'", ""),
        ("num_rounds", "'num_rounds': key=value is expected", "to remove a key, write key-"),
        ("=3", "the key is missing", "key=value is expected"),
        ("server.conf:num_rounds=3", "server.conf: there is no such file in the job", "did you mean"),
        ("config_fed_client.conf:num_rounds=3", "config_fed_client.conf has no key 'num_rounds'", ""),
        ("workflows[3].args.x=1", "workflows has 1 entries", ""),
        ("name=other", "meta.conf: name cannot be set for one run", "change it in the job"),
        ('meta.conf:deploy_map.app=["site-1"]', "deploy_map cannot be set for one run", ""),
    ],
)
def test_a_word_that_cannot_be_applied_is_named_with_the_nearest(job, word, message, hint):
    with pytest.raises(JobError) as refused:
        with_values(job(), ["lr=0.1", word])

    assert refused.value.message.startswith(f"--set {word}: ")
    assert message in refused.value.message
    assert hint in (refused.value.hint or "")


def test_a_key_of_two_files_is_refused_with_both(job):
    with pytest.raises(JobError) as refused:
        with_values(job("app_1", "app_2"), ["lr=0.1"])

    assert "'lr' is a key of app_1/config_fed_client.conf, app_2/config_fed_client.conf" in refused.value.message
    assert refused.value.hint == "say which: app_1/config_fed_client.conf:lr=VALUE"
