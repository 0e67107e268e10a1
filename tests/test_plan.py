"""The plan, which comes back as it was written, and the patterns by which executors and filters take tasks."""

import pytest

from fedsag_cli.model import ParamsType
from fedsag_cli.plan import ClientConfig, ComponentSpec, FilterSpec, Plan, ServerPlan, SitePlan, matches, read_plan
from fedsag_cli.workspace import write_json


def test_a_plan_comes_back_as_it_was_written(tmp_path):
    plan = Plan(
        job="j",
        seed=5,
        slots=2,
        threads=1,
        launcher="fork",
        preload=["torch"],
        server=ServerPlan(
            workflows=[
                ComponentSpec(path="ScatterAndGather", id="w", args={"num_rounds": 5, "x": [1, None, {"a": 0.5}]})
            ],
            components=[ComponentSpec(path="FedAvg", id="aggregator")],
            task_data_filters=[FilterSpec(tasks=["*"], path="ExcludeVars", args={"exclude_vars": ["a"]})],
            task_result_filters=[],
        ),
        names=["site-1"],
        sites=[
            SitePlan(
                name="site-1",
                group=0,
                script="/a b/é.py",
                args=["--x", "1 2"],
                command=[],
                env={"A": "b"},
                config=ClientConfig(tasks=("train", "validate"), transfer_type=ParamsType.DIFF, launch_once=False),
            )
        ],
    )
    write_json(tmp_path / "plan.json", plan)

    assert read_plan(tmp_path / "plan.json") == plan
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("name", "patterns", "taken"),
    [
        ("train", ["train"], True),
        ("train", ["validate", "tr*"], True),
        ("train", ["*"], True),
        ("train", ["t?ain", "x"], True),
        ("train", ["[a-s]rain"], False),
        ("train", ["Train", "TRAIN"], False),
        ("train", ["trai", "training", "strain"], False),
        ("train", [], False),
        ("", ["*"], True),
    ],
)
def test_a_task_is_taken_where_a_pattern_fits_its_whole_name_in_the_same_case(name, patterns, taken):
    assert matches(name, patterns) is taken
