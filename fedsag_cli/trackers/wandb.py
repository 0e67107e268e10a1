"""Stores logged values for Weights & Biases, a run for each site, in files until `wandb sync` sends them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.arguments import OneOf, checked
from fedsag_cli.events import ValuesLogged
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.trackers import RunEnd, RunFacts, Status
from fedsag_cli.workspace import SERVER

_FOLDER = Path("..", "wandb")


class WandBReceiver:
    """Stores logged values in runs of Weights & Biases: one for each site, and one, `server`, for the whole run.

    The run `server` has the settings, the seed and the versions as its config, and the digest in its summary.
    To send offline runs: `wandb sync WS/server/simulate_job/wandb/offline-run-*`.
    """

    facts = Facts(
        extra="wandb",
        nvflare=Nvflare(
            path="nvflare.app_opt.tracking.wandb.wandb_receiver.WandBReceiver",
            older_names={"kwargs": "wandb_args"},
            ignored=("events", "process_timeout"),
            added={"events": ["fed.analytix_log_stats"]},
        ),
    )
    extra = facts.extra

    @checked
    def __init__(
        self,
        wandb_args: Annotated[
            dict[str, Any] | None,
            "arguments of wandb.init: project, name (added to each site's name), config, tags and others",
        ] = None,
        mode: Annotated[
            str,
            OneOf(["offline", "online", "shared", "disabled"]),
            "offline: files in the workspace; online: sent to wandb's server with your key",
        ] = "offline",
    ) -> None:
        self._settings = wandb_args or {}
        self._mode = mode
        self._job = ""
        self._runs: dict[str, Any] = {}

    @property
    def folders(self) -> Sequence[Path]:
        return (_FOLDER,)

    @property
    def view(self) -> str:
        if self._mode != "offline":
            return "https://wandb.ai/home" if self._mode == "online" else ""
        return f"wandb sync {shlex.quote(str(_FOLDER.resolve()))}/offline-run-*"

    def begin(self, facts: RunFacts) -> None:
        import wandb  # noqa: F401

        self._job = facts.job
        given = {**facts.settings, "seed": facts.seed, "clients": len(facts.sites)}
        versions = {f"versions.{name}": version for name, version in facts.versions.items()}
        self._run_of(SERVER).config.update(given | versions)

    def write(self, values: Sequence[ValuesLogged]) -> None:
        for each in values:
            run = self._run_of(each.site)
            if each.kind == "metric":
                numbers = {name: float("nan") if value is None else value for name, value in each.values.items()}
                run.log(numbers if each.step is None else numbers | {"global_step": each.step})
            else:
                run.config.update({name: str(text) for name, text in each.values.items()}, allow_val_change=True)

    def finish(self, end: RunEnd) -> None:
        import wandb

        self._runs[SERVER].summary.update({"status": end.status.value} | ({"digest": end.digest} if end.digest else {}))
        for site, run in self._runs.items():
            status = end.status if site == SERVER else end.of(site)
            run.finish(exit_code=0 if status is Status.FINISHED else 1)
        wandb.teardown()  # ends the process that wandb started

    def _run_of(self, site: str) -> Any:
        """The run of a site. wandb's own step must never decrease, so the script's step is logged as a metric."""
        import wandb

        if site not in self._runs:
            _FOLDER.mkdir(exist_ok=True)  # otherwise wandb chooses another folder
            config = self._settings.get("config")
            arguments: dict[str, Any] = {
                "project": self._job,
                "group": self._settings.get("name") or self._job,
                **self._settings,
                "name": "-".join(filter(None, [site, self._settings.get("name")])),
                "config": {**(config if isinstance(config, Mapping) else {}), "site": site},
                "dir": str(_FOLDER.parent.resolve()),
                "mode": self._mode,
                "reinit": "create_new",
                "settings": wandb.Settings(console="off", silent=True, x_disable_stats=True),
            }
            self._runs[site] = wandb.init(**arguments)
            self._runs[site].define_metric("*", step_metric="global_step")
        return self._runs[site]
