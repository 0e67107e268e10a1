"""The tree of all commands: `fedsag config`, `job …`, `simulator`, `run`, `sweep`, `watch`, `verify` and `runs …`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedsag_cli.cli import config, display, job, run, runs, shells, show_version, simulator, sweep, verify, watch
from fedsag_cli.cli.examples import example

_SHELL_FLAGS = ("--install-completion", "--show-completion")


class _Fedsag(TyperGroup):
    """The first command: the name of a shell after `--install-completion` and `--show-completion` may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] in _SHELL_FLAGS and (len(args) == 1 or args[1].startswith("-")):
            args = [f"{args[0]}=", *args[1:]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="fedsag",
    cls=_Fedsag,
    help="Federated learning from the command line: create a job from a template, run it, get a model and a report.",
    epilog=example("fedsag job create -w sag_np", "fedsag simulator -n 2 -t 2"),
    no_args_is_help=True,
    add_completion=False,  # typer's functions neither quote names nor complete the words of -f
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's boxes cut the names of options on a narrow terminal
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("config", epilog=example("fedsag config -jt my_templates"))(config.config)
app.add_typer(job.app, name="job")
app.command("simulator", epilog=simulator.EXAMPLE)(simulator.simulator)
app.command("run", epilog=run.EXAMPLE, context_settings={"allow_interspersed_args": False})(run.run)
app.command("sweep", epilog=sweep.EXAMPLE)(sweep.sweep)
app.command("watch", epilog=example("fedsag watch workspaces/first"))(watch.watch)
app.command("verify", epilog=verify.EXAMPLE)(verify.verify)
app.add_typer(runs.app, name="runs")


def _version(wanted: bool) -> None:
    if wanted:
        show_version()
        raise typer.Exit


def _show_completion(shell: str | None) -> None:
    if shell is None:
        return
    for line in shells.SHELLS[shells.named(shell)].script.splitlines():
        display.line(line)
    raise typer.Exit


def _install_completion(shell: str | None) -> None:
    if shell is None:
        return
    installed = shells.install(name := shells.named(shell))
    for change in installed.changed or [f"the completion for {name} is installed already: nothing was changed"]:
        display.line(change)
    if installed.changed:
        display.line(f"it works in every new {name}; in this one after: {installed.try_now}")
    display.line(f"to undo this, {installed.undo}")
    raise typer.Exit


def _shells() -> list[str]:
    return list(shells.SHELLS)


@app.callback()
def _fedsag(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    install_completion: Annotated[
        str | None,
        typer.Option(
            "--install-completion",
            metavar="[SHELL]",
            callback=_install_completion,
            autocompletion=_shells,
            is_eager=True,
            help="Let the Tab key complete words of fedsag in bash, zsh or fish (default: this shell).",
        ),
    ] = None,
    show_completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="[SHELL]",
            callback=_show_completion,
            autocompletion=_shells,
            is_eager=True,
            help="Print what --install-completion installs.",
        ),
    ] = None,
) -> None:
    pass
