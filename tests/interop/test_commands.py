"""NVFLARE's commands that fedsag does not have."""

import pytest

from fedsag_cli.errors import UsageError
from fedsag_cli.interop import commands


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("poc prepare -n 2", "poc"),
        ("provision -p project.yml", "provision"),
        ("preflight_check -p x", "preflight_check"),
        ("dashboard --start", "dashboard"),
        ("study list", "study"),
        ("job submit -j jobs/x", "job submit"),
        ("job list", "job list"),
        ("config -d /kit", "config -d"),
        ("config --startup_kit_dir=/kit", "config --startup_kit_dir=/kit"),
        ("config -jt x -pw /poc", "config -pw"),
        ("config use kit", "config use"),
    ],
)
def test_a_command_of_a_deployment_is_told_with_the_export_that_leads_there(words, command):
    with pytest.raises(UsageError) as raised:
        commands.check(words.split())

    assert raised.value.message == f"fedsag has no {command!r}, which belongs to a deployment of NVFLARE"
    assert raised.value.hint.startswith("`fedsag job export JOB OUT` writes the job for NVFLARE; then `nvflare ")


@pytest.mark.parametrize(
    "words",
    ["", "config", "config -jt list", "job list_templates -d x", "job create -j list -w poc", "simulator poc -n 2"],
)
def test_what_fedsag_has_is_left_to_it(words):
    commands.check(words.split())
