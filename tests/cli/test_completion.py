"""What the Tab key offers, and how the shells ask for it."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys

import pytest
from typer.main import get_command

from fedsag_cli import history
from fedsag_cli.cli import commands, completion, position, shells
from fedsag_cli.errors import UsageError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own, and a current folder with nothing in it."""
    for name in ("FEDSAG_HOME", "ZDOTDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def job(folder):
    """The least that makes a folder a job, or a template."""
    for app in ("app_1", "app_2"):
        (folder / app / "config").mkdir(parents=True)
        for name in ("config_fed_server.conf", "config_fed_client.conf"):
            (folder / app / "config" / name).touch()
    (folder / "meta.conf").write_text("min_clients = 1\ndeploy_map { app_1 = [server, berlin], app_2 = [oslo] }\n")


def after(*words):
    """The words that are offered; the last of `words` is not complete."""
    return [word for word, _ in position.offers(get_command(commands.app), words)[1]]


SERVER = ("job", "create", "-w", "sag_np", "-f", "config_fed_server.conf")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ver"], ["verify"]),
        (["job", "list"], ["list_templates"]),
        (["job", "create", "--job"], ["--job_folder", "--job_templates_dir"]),
        (["job", "create", "--job-f"], ["--job-folder"]),
        (["job", "create", "-w", "sag_np_"], ["sag_np_dp", "sag_np_metrics", "sag_np_robust"]),
        (["job", "create", "--template=sag_np_d"], ["--template=sag_np_dp"]),
        (["job", "create", "-w", "sag_np", "-f", "m"], ["meta.conf"]),
        ([*SERVER, "num_"], ["num_rounds=", "num_clients="]),
        ([*SERVER, "num_rounds=3", "negate"], ["negate_key_metric="]),
        ([*SERVER, "num_rounds=3", "negate_key_metric="], ["negate_key_metric=true", "negate_key_metric=false"]),
        ([*SERVER, "num_rounds="], ["num_rounds=5"]),
        ([*SERVER, "num_rounds=3", "--deb"], ["--debug"]),
        ([*SERVER, "num_rounds=3", "-f", "config_fed_c"], ["config_fed_client.conf"]),
        (["job", "create", "-f", "config_fed_client.conf", "model_cl"], []),
        (["job", "create", "-f", "config_fed_server.conf", "model_cl"], ["model_class_path="]),
        (["simulator", "--launcher", ""], ["fork", "spawn"]),
        (["simulator", "--format", "j"], ["json"]),
        (["simulator", "-n", ""], []),
        (["simulator", "--resume", "--str"], ["--strict"]),
        (["--install-completion", ""], ["bash", "zsh", "fish"]),
    ],
)
def test_what_may_follow_is_offered(words, offered):
    assert after(*words) == offered


def test_with_nothing_typed_only_the_variables_of_the_template_are_offered_as_keys():
    assert after(*SERVER, "") == [
        "num_rounds=", "min_clients=", "wait_time_after_min_received=", "train_timeout=", "key_metric=",
        "negate_key_metric=",
    ]  # fmt: skip


def test_a_key_comes_with_its_meaning_type_and_value():
    _, offers = position.offers(get_command(commands.app), [*SERVER, "num_rou"])

    assert offers == [("num_rounds=", "number of rounds (int, 5)")]


def test_folders_with_a_job_are_offered_and_any_folder_may_be_named(tmp_path, monkeypatch):
    for folder in ("current_job", "jobs/one", "jobs/it's two"):
        job(tmp_path / "here" / folder)
    monkeypatch.chdir(tmp_path / "here" / "jobs")

    assert after("simulator", "../") == ["../current_job", "../jobs/it's two", "../jobs/one"]
    assert after("job", "export", "o") == ["one"]
    assert after("job", "show_variables", "-j", "'it\\''s") == []
    assert after("job", "show_variables", "-j", "it\\'s\\ ") == ["it's two"]
    assert position.offers(get_command(commands.app), ["simulator", ""])[0] == position.FOLDERS
    assert position.offers(get_command(commands.app), ["simulator", "-n", ""])[0] == position.NOTHING


def test_a_workspace_is_known_by_the_files_of_a_run(tmp_path):
    (tmp_path / "here" / "ws" / ".fedsag").mkdir(parents=True)
    (tmp_path / "here" / "data").mkdir()

    assert after("simulator", "-w", "") == ["ws"]


def test_what_can_be_verified_is_a_workspace_or_a_pack(tmp_path):
    (tmp_path / "here" / "ws" / ".fedsag").mkdir(parents=True)
    (tmp_path / "here" / "one-1.fedsag.zip").touch()

    assert after("verify", "") == ["ws", "one-1.fedsag.zip"]


def test_the_templates_of_a_folder_that_is_named_are_offered(tmp_path):
    folder = tmp_path / "mine"
    job(folder / "my template")

    assert after("job", "create", "-d", str(folder), "-w", "") == ["my template"]


@pytest.mark.parametrize(
    "wrong", ["description = [", '{"variables": [{"name": 1}]}', '{"variables": 3}', "include url(x)", "\0"]
)
def test_a_broken_template_offers_no_key_and_hides_no_other_template(tmp_path, wrong):
    for name in ("good", "broken"):
        job(tmp_path / "mine" / name)
    (tmp_path / "mine" / "broken" / "info.conf").write_text(wrong)
    create_with = ["job", "create", "-d", str(tmp_path / "mine"), "-w"]

    assert after(*create_with, "") == ["good"]
    assert after(*create_with, "broken", "-f", "meta.conf", "min") == []
    assert after(*create_with, "good", "-f", "meta.conf", "min") == ["min_clients="]


class Typed:
    """What was typed before, as a function of `completion` gets it."""

    def __init__(self, **params):
        self.params = params


def test_the_sites_are_those_of_the_command_line_or_of_the_run_or_of_the_job(tmp_path, monkeypatch):
    for name in ("server", "site-10", "site-9"):
        (tmp_path / "ws" / name).mkdir(parents=True)
        (tmp_path / "ws" / name / "log.txt").touch()
    (tmp_path / "ws" / "data").mkdir()
    job(tmp_path / "job")

    def sites(**params):
        return [word for word, _ in completion.sites(Typed(**params))]

    assert sites(num_clients=["2"]) == ["site-1", "site-2"]
    assert sites(clients=["a, b"], num_clients=["3"]) == ["a", "b"]
    monkeypatch.setattr(history, "workspace_of", {"7": tmp_path / "ws"}.get)
    assert sites(run=["7"]) == ["server", "site-9", "site-10"]
    assert sites(job=[str(tmp_path / "job")]) == ["berlin", "oslo"]


def test_a_run_is_a_number_with_its_job_or_the_last_one_or_a_workspace(tmp_path, monkeypatch):
    (tmp_path / "here" / "ws" / ".fedsag").mkdir(parents=True)

    monkeypatch.setattr(history, "known_runs", lambda: [(12, "sag_np"), (3, "mine")])
    assert completion.runs("") == [("12", "sag_np"), ("3", "mine"), ("last", "the newest run"), ("ws", "")]
    monkeypatch.setattr(history, "known_runs", list)
    assert completion.runs("") == [("ws", "")]


# the command and the shells


def loaded_by(*words, **env):
    """The modules that the command imports, and what it prints."""
    command = [sys.executable, "-X", "importtime", "-m", "fedsag_cli", *words]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0
    return set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE)), done.stdout


def test_the_version_is_shown_without_the_libraries_of_the_other_commands():
    loaded, printed = loaded_by("--version")

    assert printed.startswith("fedsag 0.")
    assert "fedsag_cli.cli" in loaded
    assert not loaded & {"typer", "rich", "msgspec", "pyhocon", "jinja2", "numpy", "torch", "fedsag_cli.cli.commands"}


def test_a_template_is_completed_without_the_libraries_that_read_jobs():
    loaded, printed = loaded_by("job", "create", "-w", "sag_np_d", _FEDSAG_COMPLETE="fish")

    assert printed.splitlines()[1].startswith("sag_np_dp\t")
    assert not loaded & {"rich", "pyhocon", "jinja2", "numpy", "torch"}


def test_whatever_is_typed_nothing_is_printed_that_is_no_offer():
    env = {**os.environ, "_FEDSAG_COMPLETE": "bash", "FEDSAG_HOME": "/nowhere"}
    for words in (
        ["nonsense", "x"],
        ["job", "create", "-w", "nowhere", "-f", "x", "y"],
        ["job", "create", "-d", "/x", "-f", ""],
    ):
        done = subprocess.run([sys.executable, "-m", "fedsag_cli", *words], env=env, capture_output=True, text=True)

        assert (done.returncode, done.stdout, done.stderr) == (0, "nothing\n", "")


STUB = f"""#!/bin/sh
[ -z "$_FEDSAG_COMPLETE" ] || exec {sys.executable} -m fedsag_cli "$@"
printf '<%s>' "$@" END
"""
ALONE = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}


@pytest.mark.slow
@pytest.mark.parametrize("shell", shells.SHELLS)
def test_the_tab_key_completes_and_quotes_words_in_a_real_shell(shell, tmp_path, monkeypatch):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    job(tmp_path / "here" / "my job's")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fedsag").write_text(STUB)
    (tmp_path / "bin" / "fedsag").chmod(0o755)
    (tmp_path / "function").write_text(shells.SHELLS[shell].script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TERM", "xterm")
    child, ours = pty.fork()  # fish needs a terminal that it controls
    if child == 0:
        os.execvp(shell, [shell, *ALONE[shell]])

    def typed(line, until):
        os.write(ours, line.encode())
        seen = ""
        while not (found := re.search(until, seen)):
            seen += os.read(ours, 65536).decode(errors="replace")
        return found[0]

    try:
        typed(f". {tmp_path / 'function'}; printf 'rea%s\\n' dy\n", "ready")

        assert typed("fedsag jo\tcr\t-w sag_np_d\t\n", "<.*END>") == "<job><create><-w><sag_np_dp><END>"
        typed("fedsag job create -w sag_np -f config_fed_server.conf num_ro\t7 negate\tt\t\n", "<num_rounds=7>.*=true>")
        assert typed("fedsag simulator m\t\n", "<sim.*END>") == "<simulator><my job's><END>"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ours)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "reply"),
    [
        (["fedsag", "job", "create", "-w", "sag_np_m"], ["sag_np_metrics"]),
        (["fedsag", "simulator", "--launcher", "=", "f"], ["fork"]),  # bash splits at =
        ([*("fedsag", *SERVER), "components[1].args.we"], ["components\\[1\\].args.weigh_by_local_iter="]),
        (["fedsag", "simulator", '"my'], ["my job"]),
        (["fedsag", "simulator", "my"], ["my\\ job"]),
    ],
)
def test_the_function_of_bash_puts_words_together_and_quotes_what_it_offers(tmp_path, words, reply):
    job(tmp_path / "here" / "my job")
    line = " ".join(words).replace(" = ", "=")
    script = f"""{shells.SHELLS["bash"].script}
    compopt() {{ :; }}
    COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:' COMP_LINE=$1 COMP_POINT=${{#1}} COMP_WORDS=("${{@:2}}")
    COMP_CWORD=$(($# - 2))
    _fedsag_complete {tmp_path}/fedsag
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    (tmp_path / "fedsag").write_text(f'#!/bin/sh\nexec {sys.executable} -m fedsag_cli "$@"\n')
    (tmp_path / "fedsag").chmod(0o755)

    done = subprocess.run(["bash", "-c", script, "bash", line, *words], capture_output=True, text=True)

    assert done.stdout.splitlines() == reply


def test_installing_says_which_files_it_changed_and_a_second_time_changes_nothing(home):
    (home / "dotfiles").mkdir()
    (home / "dotfiles" / "bashrc").write_bytes(b"alias ll='ls -l'\n# \xff\nlast")
    (home / ".bashrc").symlink_to("dotfiles/bashrc")

    first = shells.install("bash")
    files = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    second = shells.install("bash")

    function = home / ".fedsag" / "completion.bash"
    line = f"[ ! -r {function} ] || . {function}  # completion of fedsag"
    assert first.changed == [f"wrote {function}", f"added a line to {home / '.bashrc'}: {line}"]
    assert (home / ".bashrc").is_symlink()
    assert (home / ".bashrc").read_bytes() == b"alias ll='ls -l'\n# \xff\nlast\n" + line.encode() + b"\n"
    assert str(function) in first.undo
    assert str(home / ".bashrc") in first.undo
    assert second.changed == []
    assert files == {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_zsh_and_fish_find_their_files_where_they_look_for_them(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ZDOTDIR", str(tmp_path / "zsh"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "zsh").mkdir()

    shells.install("zsh")
    shells.install("fish")

    assert "completion.zsh" in (tmp_path / "zsh" / ".zshrc").read_text()
    assert (tmp_path / "config" / "fish" / "completions" / "fedsag.fish").is_file()
    assert list(home.iterdir()) == [home / ".fedsag"]


def test_a_file_that_cannot_be_written_is_named_with_another_way(home):
    (home / ".fedsag").write_text("a file")

    with pytest.raises(UsageError, match=r"\.fedsag") as error:
        shells.install("bash")

    assert "--show-completion bash" in error.value.hint


def fedsag(*words):
    return subprocess.run([sys.executable, "-m", "fedsag_cli", *words], capture_output=True, text=True)


def test_a_shell_that_is_not_known_is_refused_with_those_that_are(home):
    done = fedsag("--install-completion", "tcsh")

    assert done.returncode == 2
    assert "bash, zsh, fish" in done.stderr
    assert list(home.iterdir()) == []


def test_without_a_name_the_shell_is_the_users(home, monkeypatch):
    monkeypatch.setenv("SHELL", "/usr/bin/fish")

    assert fedsag("--show-completion").stdout == shells.SHELLS["fish"].script
    assert fedsag("--install-completion").stdout.startswith(f"wrote {home / '.config/fish/completions/fedsag.fish'}\n")

    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "name bash, zsh or fish" in fedsag("--install-completion").stderr
