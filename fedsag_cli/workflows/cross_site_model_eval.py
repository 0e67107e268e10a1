"""Cross-site evaluation: every model, those of the sites and those of the server, is measured on every site's data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from fedsag_cli.arguments import Least, checked
from fedsag_cli.errors import JobError, RunError, nearest
from fedsag_cli.events import Metrics, ResultTable, as_metrics
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.model import MODEL_OWNER, FLModel, Task
from fedsag_cli.persistors import Persistor, name_of, write_model
from fedsag_cli.workflows import Clients, Replies
from fedsag_cli.workflows.model_files import NPModelLocator
from fedsag_cli.workflows.run import Run

BEST_MODEL = "best_model"
_SUBMIT_MODEL_NAME, _VALIDATE_TYPE = "submit_model_name", "validate_type"
_MODELS_AT_ONCE = 4  # that are out to be measured: a site that is done with one goes on with the next


class CrossSiteModelEval:
    """Clients send their own models; then each client measures each model, and the server's best and final model.

    Clients that list `submit_model_task_name` send one model for each of `submit_model_names`, which the task has in
    `meta["submit_model_name"]`. Clients that list `validation_task_name` measure. The models are called by the sites,
    as in "site-1" for its "best_model" and "site-1/final_model" for others; the server's are called "SRV_" and the name
    of the file, or of a model in NPModelLocator. Without a trained model, the server's is the one that training would
    start from.

    The metrics are in `cross_val_results.json`, by the client whose data it is and the owner of the model. There is a
    table for each metric too. A client that cannot send its model, or cannot measure one, has failed; the others go on.
    Raises RunError if nothing was measured.
    """

    facts = Facts(
        asks_for=("submit_model_task_name", "validation_task_name"),
        names_sites=("participating_clients", "evaluatees", "evaluators"),
        nvflare=Nvflare(
            path="nvflare.app_common.workflows.cross_site_model_eval.CrossSiteModelEval",
            also={
                "GlobalModelEval": {"submit_model_task_name": None},
                "EvalController": {"submit_model_task_name": None},
                "CrossSiteEval": {"persistor_id": "persistor"},
                "CrossSiteEvalServerController": {"persistor_id": "persistor", "validation_timeout": 30},
            },
            older_names={
                "model_locator_id": "persistor_id",
                "eval_task_timeout": "validation_timeout",
                "timeout": "validation_timeout",
                "eval_result_dir": "cross_val_dir",
            },
            ignored=("task_check_period", "wait_for_clients_timeout", "formatter_id", "cleanup_models",
                     "global_model_client"),
            expected={"server_models": (None, ["FL_global_model.pt"])},
            left_out={
                "submit_model_names": "asks for the best model of each client",
                "evaluatees": "asks all clients for their models",
                "evaluators": "lets all clients measure",
            },
            whole_numbers=("submit_model_timeout", "validation_timeout"),
        ),
    )  # fmt: skip

    @checked
    def __init__(
        self,
        persistor: Annotated[
            Persistor | NPModelLocator | None, "has the server's models (null: only those of the clients)"
        ] = None,
        submit_model_task_name: Annotated[
            str | None, "name of the task to send a model (null: only the server's models are measured)"
        ] = "submit_model",
        submit_model_names: Annotated[
            Sequence[str], "the models that each client sends, such as best_model and final_model"
        ] = (BEST_MODEL,),
        validation_task_name: Annotated[str, "name of the task to measure a model"] = "validate",
        submit_model_timeout: Annotated[
            float, Least(0), "seconds that a client has to send a model (0: no limit)"
        ] = 600,
        validation_timeout: Annotated[
            float, Least(0), "seconds that a client has to measure a model (0: no limit)"
        ] = 6000,
        participating_clients: Annotated[Sequence[str] | None, "the clients that take part (null: all)"] = None,
        evaluatees: Annotated[Sequence[str] | None, "the clients whose models are measured (null: all)"] = None,
        evaluators: Annotated[Sequence[str] | None, "the clients that measure (null: all)"] = None,
        cross_val_dir: Annotated[str, "folder of the results, beside the server's app folder"] = "cross_site_val",
    ) -> None:
        """Raises JobError naming the argument that is out of range."""
        if not cross_val_dir or Path(cross_val_dir).is_absolute() or ".." in Path(cross_val_dir).parts:
            raise JobError(f"cross_val_dir must be a folder inside the server's folder, not {cross_val_dir!r}")
        self._persistor = persistor
        self._submit, self._names, self._validate = submit_model_task_name, submit_model_names, validation_task_name
        self._submit_s, self._validate_s = submit_model_timeout or None, validation_timeout or None
        self._participating = participating_clients
        self._owners, self._evaluators = evaluatees, evaluators
        self._results = Path("..", cross_val_dir, "cross_val_results.json")

    @property
    def files(self) -> Sequence[Path]:
        return (self._results,)

    def run(self, clients: Clients, run: Run) -> None:
        measuring = self._sites(clients, self._validate, self._evaluators)
        found: dict[str, dict[str, Metrics]] = {}  # by the owner of the model, and the site whose data it is
        with ExitStack() as asked:
            waiting: list[tuple[str, Replies]] = []
            for owner, model in self._models(clients):
                meta = {_VALIDATE_TYPE: "model_validate", MODEL_OWNER: owner}
                task = Task(name=self._validate, model=FLModel(params=dict(model.params or {}), meta=meta))
                replies = asked.enter_context(clients.ask(task, to=measuring, timeout_s=self._validate_s))
                waiting.append((owner, replies))
                if len(waiting) == _MODELS_AT_ONCE:
                    self._collect(*waiting.pop(0), found)
            for owner, replies in waiting:
                self._collect(owner, replies, found)
        if not any(found.values()):
            raise RunError(
                "no client measured a model" if found else "there is no model to measure",
                hint="read the clients' logs" if found else "train one first, or let clients list submit_model",
            )
        by_site = {site: {owner: cells[site] for owner, cells in found.items() if site in cells} for site in measuring}
        text = json.dumps({site: cells for site, cells in by_site.items() if cells}, indent=2) + "\n"
        run.written([write_model(self._results, lambda file: file.write(text.encode()))])
        for metric in dict.fromkeys(name for cells in found.values() for own in cells.values() for name in own):
            run.emit(
                ResultTable(
                    workflow=run.workflow_name,
                    title=f"{metric} of each model (rows) on the data of each site (columns)",
                    columns=["model", *measuring],
                    rows=[
                        [owner, *(cells.get(site, {}).get(metric) for site in measuring)]
                        for owner, cells in found.items()
                    ],
                )
            )

    def _models(self, clients: Clients) -> Iterator[tuple[str, FLModel]]:
        """The models to measure, each with the name of its owner: first the server's."""
        yield from self._of_server()
        if not self._submit:
            return
        owners = self._sites(clients, self._submit, self._owners)
        for name in self._names:
            task = Task(name=self._submit, model=FLModel(meta={_SUBMIT_MODEL_NAME: name}))
            with clients.ask(task, to=owners, timeout_s=self._submit_s) as replies:
                for reply in replies:
                    if not reply.model.params:
                        replies.reject(reply, f"its answer to the task {self._submit!r} has no params")
                        continue
                    yield reply.site if name == BEST_MODEL else f"{reply.site}/{name}", reply.keep()

    def _of_server(self) -> Iterator[tuple[str, FLModel]]:
        persistor = self._persistor
        if persistor is None:
            return
        if isinstance(persistor, NPModelLocator):
            yield from ((f"SRV_{name}", model) for name, model in persistor.models())
            return
        has_model = False
        for name in ("final", "best"):
            if (model := persistor.get(name)) is not None:
                has_model = True
                yield f"SRV_{name_of(persistor, name)}", model
        if not has_model and (first := persistor.load()).params:
            yield f"SRV_{name_of(persistor, 'final')}", first

    def _collect(self, owner: str, replies: Replies, found: dict[str, dict[str, Metrics]]) -> None:
        """Wait for what the sites measured on the model of this owner."""
        cells = found[owner] = {}
        for reply in replies:
            if reply.model.metrics:
                cells[reply.site] = as_metrics(reply.model.metrics)
            else:
                replies.reject(reply, f"its answer to the task {self._validate!r} has no metrics")

    def _sites(self, clients: Clients, task_name: str, named: Sequence[str] | None) -> Sequence[str]:
        """The sites that take the task, of those that are named. Raises JobError for a name that no client has."""
        for site in (*(self._participating or ()), *(named or ())):
            if site not in clients.sites:
                raise JobError(f"there is no client {site!r}", hint=nearest(site, clients.sites))
        return [
            site
            for site in clients.takes(task_name)
            if site in (self._participating or clients.sites) and site in (named or clients.sites)
        ]
