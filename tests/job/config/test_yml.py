"""Configs in YAML: read, written, and what can be set in them."""

import json

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsag_cli.errors import JobError
from fedsag_cli.job import Job
from fedsag_cli.job.config import hocon, yml
from fedsag_cli.job.templates import variables
from fedsag_cli.job.templates.create import create as make

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
LOOKS = """\
lr: 1e-3
small: 1.5E-4
half: .5
rounds: 5
day: 2024-01-02
name: 1.2.3
none: null
word: 1e
"""


class Plain(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def load(text):
    return yml.loads(text, name="meta.yml")


def test_numbers_texts_and_dates_are_what_they_look_like():
    assert load(LOOKS) == {
        "lr": 0.001,
        "small": 0.00015,
        "half": 0.5,
        "rounds": 5,
        "day": "2024-01-02",
        "name": "1.2.3",
        "none": None,
        "word": "1e",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\n", "meta.yml: line 2 is not YAML"),
        ("a: &x [1]\nb: *x\n", "line 2: an alias"),
        ("a: !!python/object/apply:os.system ['true']\n", "line 1 is not YAML"),
        ("- 1\n", "must contain keys and values, not list"),
        ("", "must contain keys and values, not NoneType"),
        ("1: 2\n", "every key must be a text"),
        ("a:\n  on: 1\n", "a: every key must be a text"),
        ("a: !!binary aGk=\n", "is not a plain value"),
        ("a: !!set {x}\n", "is not a plain value"),
        ("{" + "a: {" * 200 + "}" * 200 + "}", "nested too deeply"),
        ("a: {" * 20_000, "nested too deeply"),
    ],
)
def test_what_is_no_config_is_refused_naming_the_place(text, said):
    with pytest.raises(JobError) as raised:
        load(text)
    assert said in raised.value.message


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXTS, PLAIN, max_size=4))
def test_any_plain_tree_comes_back_as_yaml_has_written_it(values):
    """Texts in quotes: without them `0E0` is a number here, and a text to the one who wrote it."""
    assert load(yaml.dump(values, Dumper=Plain, allow_unicode=True, default_style='"')) == values


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXTS, PLAIN, max_size=4))
@example({"a": ["1e-3", "2024-01-02", "null", "yes", "0x1", ""], "b": {"1": 1e-3}})
def test_any_plain_tree_comes_back_as_it_was_written(values):
    assert repr(load(yml.dumps(values))) == repr(values)


def test_a_value_that_stands_twice_is_written_out_twice():
    once = {"x": [1]}

    assert load(yml.dumps({"a": once, "b": once})) == {"a": {"x": [1]}, "b": {"x": [1]}}


SERVER = """\
format_version: 2
num_rounds: 2  # as many as you like
workflows:
  - id: flow
    path: ScatterAndGather
    args: {num_rounds: "{num_rounds}", aggregator_id: aggregator, persistor_id: persistor}
components:
  - {id: aggregator, path: FedAvg}
  - {id: persistor, path: NPModelPersistor, args: {model_name: 1e-3}}
"""
CLIENT = """\
executors:
  - tasks: [train]
    executor:
      path: ClientAPIExecutor
      args: {execution_mode: in_process, task_script_path: train.py}
"""


@pytest.fixture
def template(tmp_path):
    folder = tmp_path / "template"
    folder.mkdir()
    (folder / "config_fed_server.yml").write_text(SERVER.replace("1e-3", '"1e-3"'))
    (folder / "config_fed_client.yaml").write_text(CLIENT)
    (folder / "meta.yml").write_text('deploy_map: {app: ["@ALL"]}\nmin_clients: 2\n')
    return folder


def test_a_template_in_yaml_makes_a_job_in_yaml_with_what_was_set(template, tmp_path):
    words = ["num_rounds=5", "wait_time_after_min_received=0", "components[0].args.exclude_vars=on"]
    asked = [
        ("config_fed_server.yml", words),
        ("config_fed_client.yaml", ["launch_once=false"]),
        ("meta.conf", ["min_clients=3"]),
    ]

    made = make(tmp_path / "job", str(template), overrides=asked)

    config = tmp_path / "job" / "app" / "config"
    server = hocon.load(config / "config_fed_server.yml")
    assert server["num_rounds"] == 5
    assert server["workflows"][0]["args"]["wait_time_after_min_received"] == 0
    assert server["components"][0]["args"] == {"exclude_vars": "on"}
    assert server["components"][1]["args"] == {"model_name": "1e-3"}
    assert hocon.load(config / "config_fed_client.yaml")["executors"][0]["executor"]["args"]["launch_once"] is False
    assert hocon.load(tmp_path / "job" / "meta.conf")["min_clients"] == 3
    keys = "num_rounds, wait_time_after_min_received, components[0].args.exclude_vars"
    assert made.notes == [f"config_fed_server.yml was rewritten to set {keys}: its comments are lost"]
    assert made.refusals == ["app/custom/train.py does not exist yet: add it before you run the job"]


def test_what_was_not_set_in_a_template_in_yaml_is_copied_as_it_is(template, tmp_path):
    make(tmp_path / "job", str(template))

    assert (tmp_path / "job/app/config/config_fed_server.yml").read_text() == (
        template / "config_fed_server.yml"
    ).read_text()


def test_what_can_be_set_in_a_job_in_yaml_or_json_is_shown(template, tmp_path):
    client = hocon.load(template / "config_fed_client.yaml")
    (template / "config_fed_client.yaml").unlink()
    (template / "config_fed_client.json").write_text(json.dumps(client))
    make(tmp_path / "job", str(template), overrides=[("config_fed_client.json", ["task_script_path=a.py"])])

    rows = {(row.file, row.key): (row.value, row.kind) for row in variables.of_job(tmp_path / "job")}

    assert rows["config_fed_server.yml", "num_rounds"] == (2, "int")
    assert rows["config_fed_server.yml", "model_name"] == ("1e-3", "text")
    assert rows["config_fed_client.json", "task_script_path"] == ("a.py", "text")
    assert rows["config_fed_client.json", "launch_once"] == (True, "bool")


def test_a_file_called_by_another_suffix_is_an_error_naming_the_one_that_is_there(template, tmp_path):
    with pytest.raises(JobError) as raised:
        make(tmp_path / "job", str(template), overrides=[("config_fed_server.conf", ["num_rounds=5"])])

    assert raised.value.message == "-f config_fed_server.conf: there is no such file in the job"
    assert raised.value.hint == "did you mean 'config_fed_server.yml'?"
    assert not (tmp_path / "job").exists()


def test_a_config_further_down_is_found_json_before_yaml_wherever_they_lie(template, tmp_path):
    make(tmp_path / "job", str(template))
    config = tmp_path / "job" / "app" / "config"
    (config / "deep").mkdir()
    server = {**hocon.load(config / "config_fed_server.yml"), "num_rounds": 7}
    (config / "deep" / "config_fed_server.json").write_text(json.dumps(server))

    (flow,) = Job.load(tmp_path / "job").apps["app"].server({}).workflows

    assert flow.args["num_rounds"] == 7
    shown = {(row.file, row.key): row.value for row in variables.of_job(tmp_path / "job")}
    assert shown["deep/config_fed_server.json", "num_rounds"] == 7
