"""`fedsag config`, as a user types it."""

import json
import os
import subprocess
import sys

import forked
import pytest

from fedsag_cli.job.config import hocon

MAIN = "import sys; from fedsag_cli.cli import main; sys.argv[0] = 'fedsag'; main()"


@pytest.fixture
def fedsag(tmp_path):
    """Runs the command, piped, with a home of its own."""
    home = tmp_path / "home"
    home.mkdir()

    def fedsag(*words, cwd=tmp_path, **env):
        clean = {key: value for key, value in os.environ.items() if key != "FEDSAG_HOME"}
        return forked.command(words, cwd=cwd, env={**clean, "HOME": str(home), **env})

    fedsag.config = home / ".fedsag" / "config.conf"
    return fedsag


def test_without_a_flag_the_settings_are_printed_and_nothing_is_written(fedsag):
    done = fedsag("config", "--format", "json")

    settings = json.loads(done.stdout)
    assert done.returncode == 0
    assert settings["config_file"] == str(fedsag.config)
    assert settings["named_by"] == "shipped with fedsag"
    assert not fedsag.config.parent.exists()


@pytest.mark.parametrize("flag", ["-jt", "--job_templates_dir", "--job-templates-dir"])
@pytest.mark.parametrize("name", ["plain", "a, b # c=d+e \"q\" 'r' {x} [y] ${HOME}", "tab\tline\nend", "ünï☃", "-dash"])
def test_any_folder_is_stored_and_found_again(fedsag, tmp_path, flag, name):
    (tmp_path / name).mkdir()

    assert fedsag("config", flag, f"./{name}").returncode == 0

    assert hocon.load(fedsag.config) == {"job_template": {"path": str(tmp_path / name)}}
    assert json.loads(fedsag("config", "--format", "json").stdout)["job_templates_dir"] == str(tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_folder_whose_name_is_no_utf8_is_stored_and_found_again(fedsag, tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102  a name of bytes
    command = [sys.executable, "-c", MAIN, "config", "-jt", folder]
    env = {**os.environ, "HOME": str(tmp_path / "home")}

    assert subprocess.run(command, env=env, capture_output=True).returncode == 0

    assert folder in fedsag.config.read_bytes()
    done = subprocess.run(command[:-2], env=env, capture_output=True)
    assert (done.returncode, b"warning" in done.stderr) == (0, False)


def test_what_else_stands_in_the_config_file_is_kept(fedsag, tmp_path):
    fedsag.config.parent.mkdir()
    fedsag.config.write_text('{ poc { workspace = "/w" }, job_template { path = "/old", other = 1 }, version = 2 }')

    assert fedsag("config", "-jt", str(tmp_path)).returncode == 0

    assert hocon.load(fedsag.config) == {
        "poc": {"workspace": "/w"},
        "job_template": {"path": str(tmp_path), "other": 1},
        "version": 2,
    }
    assert [path.name for path in fedsag.config.parent.iterdir()] == ["config.conf"]


@pytest.mark.parametrize("folder", ["nowhere", "file"])
def test_a_folder_that_is_not_there_is_an_error_and_nothing_is_stored(fedsag, tmp_path, folder):
    (tmp_path / "file").touch()

    done = fedsag("config", "-jt", folder)

    assert done.returncode == 3
    assert done.stderr.startswith(f"error: there is no folder {tmp_path / folder}\nhint: ")
    assert not fedsag.config.exists()


@pytest.mark.parametrize("text", ["job_template = 5", "job_template { path = 5 }", "a = ["])
def test_a_wrong_config_file_is_an_error_naming_it(fedsag, text):
    fedsag.config.parent.mkdir()
    fedsag.config.write_text(text)

    done = fedsag("config")

    assert done.returncode == 3
    assert done.stderr.startswith(f"error: {fedsag.config}: ")
    assert "Traceback" not in done.stderr


def test_a_folder_that_was_removed_since_is_a_warning(fedsag, tmp_path):
    (tmp_path / "t").mkdir()
    fedsag("config", "-jt", "t")
    (tmp_path / "t").rmdir()

    done = fedsag("config")

    assert done.returncode == 0
    assert done.stderr == f"warning: there is no folder {tmp_path / 't'}\n"


def test_it_says_so_when_the_environment_comes_before_what_was_stored(fedsag, tmp_path):
    (tmp_path / "job_templates").mkdir()

    done = fedsag("config", "-jt", ".", FEDSAG_HOME=str(tmp_path))

    assert "$FEDSAG_HOME takes precedence" in done.stderr


def test_a_home_that_cannot_be_written_is_an_error(fedsag, tmp_path):
    fedsag.config.parent.touch()

    done = fedsag("config", "-jt", ".")

    assert done.returncode == 3
    assert "cannot be" in done.stderr


def test_debug_shows_where_an_error_was_raised(fedsag):
    assert "Traceback" in fedsag("config", "-jt", "nowhere", "-debug").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["simulator", "-n", "two"], "-n two: it must be a whole number"),
        (["simulator", "-w", ""], "-w needs the name of a folder"),
        (["simulator", "--seed", "1.5"], "--seed 1.5: it must be a whole number"),
        (["simulator", "--format", "xml"], "--format xml: 'xml' is not one of 'txt', 'json'"),
        (["simulator", "-n", "\x1b[31m"], "-n '\\x1b[31m': it must be a whole number"),
        (["config", "-zz"], "no such option: -z"),
        (["confg"], "no such command 'confg'. Did you mean 'config'?"),
        (["job", "export"], "missing argument 'JOB'"),
        (["config", "--reset", "-jt", "."], "--reset and -jt cannot both be given"),
    ],
)
def test_a_wrong_command_line_is_2_in_our_own_words(fedsag, words, said):
    """Typer's were those of pydantic."""
    done = fedsag(*words)

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}\nhint: ")


def test_a_command_without_its_subcommand_shows_them(fedsag):
    done = fedsag("job")

    assert done.returncode == 2
    assert "list_templates" in done.stderr
    assert "error" not in done.stderr


def test_every_command_shows_the_traceback_of_an_error_with_debug(fedsag):
    for words in (["simulator", "nowhere"], ["job", "show_variables", "-j", "nowhere"], ["job", "export", "no", "out"]):
        done = fedsag(*words, "-debug")
        assert (done.returncode, "Traceback" in done.stderr, "error: " in done.stderr) == (3, True, True), words


def test_the_stored_folder_is_forgotten_with_reset_and_the_rest_is_kept(fedsag, tmp_path):
    fedsag.config.parent.mkdir()
    stored = f'job_template {{ path = "{tmp_path}" }}'
    fedsag.config.write_text('poc { workspace = "/w" }\n' + stored)

    done = fedsag("config", "--reset", "--format", "json")

    assert json.loads(done.stdout)["named_by"] == "shipped with fedsag"
    assert hocon.load(fedsag.config) == {"poc": {"workspace": "/w"}}
    assert fedsag("config", "--reset").returncode == 0


def test_it_says_so_when_the_environment_still_names_a_folder_after_reset(fedsag, tmp_path):
    (tmp_path / "job_templates").mkdir()

    done = fedsag("config", "--reset", FEDSAG_HOME=str(tmp_path))

    assert "$FEDSAG_HOME still names a folder" in done.stderr


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "fedsag_cli", "--version"], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("fedsag 0.")


def test_the_version_is_told_without_importing_what_is_heavy(fedsag):
    code = MAIN.replace(
        "main()", "sys.argv[1:] = ['--version']; import atexit; atexit.register(lambda: print(*sys.modules)); main()"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    version, modules = done.stdout.splitlines()
    assert version.startswith("fedsag 0.")
    assert not {"torch", "numpy", "pyhocon", "jinja2", "rich.console"} & set(modules.split())
