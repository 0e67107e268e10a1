"""Every help text ends with an example that works."""

import os
import shlex
import subprocess
import sys

import pytest
from typer.main import get_command

from fedsag_cli.cli import commands

ROOT = get_command(commands.app)


def below(name, command):
    """The command and all its subcommands, by what a user types."""
    yield name, command
    for word, each in getattr(command, "commands", {}).items():
        yield from below(f"{name} {word}", each)


COMMANDS = dict(below("fedsag", ROOT))


def examples(command):
    """The words of each line of the example, as a shell splits them."""
    lines = (command.epilog or "").replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("  ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_text_ends_with_an_example_that_the_command_line_takes(name):
    found = examples(COMMANDS[name])

    assert found, f"{name} -h has no example"
    assert any(" ".join(words).startswith(name.replace("-", "_")) for words in found)
    for program, *words in found:
        assert program == "fedsag"
        command = ROOT
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands")
        command.make_context(command.name, words)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_of_an_example_is_broken_on_a_terminal_of_80_columns(name):
    assert max(map(len, COMMANDS[name].epilog.splitlines())) <= 78


@pytest.mark.slow
def test_the_examples_of_jobs_and_runs_work_one_after_the_other(tmp_path):
    (tmp_path / "my_templates").mkdir()
    env = {**os.environ, "HOME": str(tmp_path)}
    names = [
        "",
        " job create",
        " job list_templates",
        " job show_variables",
        " job export",
        " simulator",
        " runs pack",
        " verify",
        " config",
    ]
    for words in [words for name in names for words in examples(COMMANDS[f"fedsag{name}"])]:
        command = [sys.executable, "-m", "fedsag_cli", *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

        assert done.returncode == 0, f"{words}: {done.stderr}"
