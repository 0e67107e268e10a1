"""The Client API: a training script calls it to take part in federated learning.

    import fedsag_cli.client as flare

    flare.init()
    while flare.is_running():
        input_model = flare.receive()
        net.load_state_dict(input_model.params)
        ...
        flare.send(flare.FLModel(params=net.cpu().state_dict(), metrics={"accuracy": accuracy},
                                 meta={"NUM_STEPS_CURRENT_ROUND": steps}))

If no run started the script, it does one local pass: see `init`.

Every function except `init` has the argument `ctx`: a context that `init` returned, by default the last one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from fedsag_cli.client.analytics import AnalyticsDataType, log_values
from fedsag_cli.client.place import Site
from fedsag_cli.client.ranks import Loop
from fedsag_cli.client.session import Session
from fedsag_cli.errors import ClientError
from fedsag_cli.model import FLModel, ParamsType, Tree

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "APIContext",
    "AnalyticsDataType",
    "FLModel",
    "ParamsType",
    "Site",
    "get_config",
    "get_job_id",
    "get_site_name",
    "get_task_name",
    "init",
    "is_evaluate",
    "is_running",
    "is_submit_model",
    "is_train",
    "log",
    "partition",
    "receive",
    "send",
    "shutdown",
    "site",
    "state",
    "system_info",
]


class APIContext:
    """A script's connection to the run, as returned by `init`. In a `with` statement, its end leaves the run."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._loop = Loop(session.rank)

    def __enter__(self) -> APIContext:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()


class SiteState(MutableMapping[str, Tree]):
    """What this site keeps from task to task: tensors, arrays, numbers, texts, bytes, lists and dicts by name.

    It goes along with each answer and is saved with the round. With `launch_once = false` and in a resumed run it is
    there again, to the bit. If an answer fails or is rejected, the site has what it had before. Read it anew for each
    task, and change it between `receive()` and `send()`. Before the first task, it waits for that.

    Raises ClientError before `init()`, for ranks other than "0", and where it is changed after an answer. `send()`
    raises TensorError naming a value that cannot be kept.
    """

    def __getitem__(self, name: str) -> Tree:
        return self._now()[name]

    def __setitem__(self, name: str, value: Tree) -> None:
        self._now(to_change=True)[name] = value

    def __delitem__(self, name: str) -> None:
        del self._now(to_change=True)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __repr__(self) -> str:
        return f"SiteState({dict(self)!r})" if _last else "SiteState()"

    def _now(self, *, to_change: bool = False) -> dict[str, Tree]:
        if not _last:
            raise ClientError("flare.state was used before flare.init()", hint="call flare.init() first")
        session = _last[0]._session
        if session.rank != "0":
            raise ClientError(f"only rank 0 has flare.state, this is rank {session.rank}")
        return session.kept(to_change=to_change)


state = SiteState()

_contexts: dict[str, APIContext] = {}
_last: list[APIContext] = []


def init(rank: str | int | None = None, config_file: str | None = None) -> APIContext:  # noqa: ARG001
    """Join the run that started this process. Call it first, and once.

    `rank`: the rank of this process if several processes train one model; the default is the environment variable RANK,
    else LOCAL_RANK, else "0". Only rank "0" is connected to the server. `config_file`: not used, for old scripts.

    If no run started this process, the script does one local pass, and standard error says so: it gets one task, to
    train, as "site-1" of one site, or that of FEDSAG_LOCAL_SITE=2/4. The model that it receives has params None, or
    those of the file FEDSAG_INITIAL. What it sends and logs is kept in the folder `fedsag_local`, which the next start
    replaces; fedsag does not seed. Raises ClientError if that cannot begin.
    """
    key = str(rank if rank is not None else os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0")
    if key in _contexts:
        logging.getLogger("fedsag").warning("flare.init() was called before: it returns the same context")
    else:
        _contexts[key] = APIContext(Session(key))
    _last[:] = [_contexts[key]]
    return _contexts[key]


def receive(timeout: float | None = None, ctx: APIContext | None = None) -> FLModel | None:
    """Wait for the next task, and return the global model that comes with it.

    Further calls before `send()` return the same model. Its `params` are a copy that the script may change. None at
    the end of the run, after `timeout` seconds without a task, and for ranks other than "0". Raises ClientError if
    `is_running()` was called again without an answer to the last task: the script's loop would never end.
    """
    return _session(ctx, "receive").receive(timeout)


def send(
    model: FLModel,
    clear_cache: bool = True,  # noqa: ARG001
    ctx: APIContext | None = None,
    clear_registry: bool = True,  # noqa: ARG001  the older name of clear_cache
) -> None:
    """Answer the current task.

    `model.params`: by name, torch tensors (any device, any dtype), numpy arrays or numbers. `model.metrics`: numbers,
    measured on the model that was received. `model.meta["NUM_STEPS_CURRENT_ROUND"]`: the weight of this update in the
    mean; `model.meta["NUM_SAMPLES"]`: how many samples the site trains on, which the run shows. If the job's
    `params_transfer_type` is DIFF, the difference to the received params is sent. `optimizer_params` are not sent.
    `clear_cache` has no effect: neither `model` nor the received model is changed.

    What `state` has goes along. Raises TypeError if `model` is not an FLModel; ClientError if no model was received, or
    `model` has neither params nor metrics; TensorError naming a key whose value cannot be sent. After an error the task
    can still be answered.
    """
    if not isinstance(model, FLModel):
        raise TypeError(f"flare.send() takes an FLModel, not a {type(model).__name__}")
    if not isinstance(state, SiteState):
        raise ClientError("flare.state was replaced by another object", hint='set its keys: flare.state["name"] = …')
    _session(ctx, "send").send(model)


def is_running(ctx: APIContext | None = None) -> bool:
    """Wait for the next task: True if there is one, False at the end of the run.

    In other ranks than "0": the same value as in rank 0 if the ranks have a torch.distributed group, else False.
    """
    session = _session(ctx, "is_running")
    return (ctx or _last[0])._loop.is_running(session.is_running)


def is_train(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to train."""
    session = _of_rank_0(ctx, "is_train")
    return session.task_name() == session.config.train_task_name


def is_evaluate(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to evaluate the received model, and to send metrics only."""
    session = _of_rank_0(ctx, "is_evaluate")
    return session.task_name() == session.config.evaluate_task_name


def is_submit_model(ctx: APIContext | None = None) -> bool:
    """Whether the current task is to send the site's own model; `meta["submit_model_name"]` is its name."""
    session = _of_rank_0(ctx, "is_submit_model")
    return session.task_name() == session.config.submit_model_task_name


def get_task_name(ctx: APIContext | None = None) -> str:
    """The name of the current task."""
    return _of_rank_0(ctx, "get_task_name").task_name()


def get_job_id(ctx: APIContext | None = None) -> str:
    """The name of the job's folder in this site's folder of the workspace: "simulate_job"."""
    return _session(ctx, "get_job_id").job_id


def get_site_name(ctx: APIContext | None = None) -> str:
    """This client's name, such as "site-1"."""
    return _session(ctx, "get_site_name").site_name


def site(ctx: APIContext | None = None) -> Site:
    """This client's place among the sites of the run: `index` from 0 on, `count`, and `name`."""
    return _session(ctx, "site").site


def partition(
    labels: Any, how: str = "iid", *, alpha: float = 0.5, shards_per_site: int = 2, ctx: APIContext | None = None
) -> NDArray[np.int64]:
    """The indices of the samples that are this site's, of a data set that all sites have: sorted, int64.

    `labels`: one for each sample, as a list, numpy array or torch tensor of one axis; for "iid" their number is enough.
    Every sample is at one site, and no site is without samples. The division depends on the arguments, the number of
    sites and the seed of the run.

    `how`: "iid": random parts of the same size. "dirichlet": parts of the same size, whose shares of the labels are
    q ~ Dir(alpha p), with p the shares in all data: the smaller `alpha`, the fewer labels a site has (Hsu et al., 2019,
    https://arxiv.org/abs/1909.06335). "shards": the samples sorted by label, in equal shards, of which each site has
    `shards_per_site` (McMahan et al., 2017, https://arxiv.org/abs/1602.05629). "column": all samples with one value are
    at one site; each site has as many values, or one more.

    The run shows how many samples each site has; the first call for a site counts. Raises ClientError if an argument is
    wrong, or a site would have no sample.
    """
    from fedsag_cli.client.partitioning import part_of

    session = _session(ctx, "partition")
    found = part_of(session.site, labels, how, alpha=alpha, shards_per_site=shards_per_site, seed=session.seed)
    session.tell_samples(len(found))
    return found


def system_info(ctx: APIContext | None = None) -> dict[str, str]:
    """`site_name` and `job_id`."""
    session = _session(ctx, "system_info")
    return {"site_name": session.site_name, "job_id": session.job_id}


def get_config(ctx: APIContext | None = None) -> dict[str, Any]:
    """The job's settings for this client."""
    session = _session(ctx, "get_config")
    config = session.config
    return {
        "TASK_EXCHANGE": {
            "train_with_eval": config.train_with_evaluation,
            "exchange_format": config.exchange_format,
            "transfer_type": config.transfer_type.value,
            "train_task_name": config.train_task_name,
            "eval_task_name": config.evaluate_task_name,
            "submit_model_task_name": config.submit_model_task_name,
            "launch_once": config.launch_once,
        },
        "job_id": session.job_id,
        "site_name": session.site_name,
        "memory_gc_rounds": config.memory_gc_rounds,
        "cuda_empty_cache": config.cuda_empty_cache,
    }


def log(
    key: str,
    value: Any,
    data_type: AnalyticsDataType,
    ctx: APIContext | None = None,
    *,
    global_step: int | None = None,
    path: str | None = None,
    **_: Any,
) -> None:
    """Log a value, or a dict of values if `data_type` is a plural. The job's trackers store it.

    `float()` must accept each number. `global_step`: the number of the step (None: step 0). `path`: the file for a
    text. Other keywords are accepted and not used. Any thread may call it. Raises ClientError naming a key that
    cannot be logged. The writers of `fedsag_cli.client.tracking` call this.
    """
    _of_rank_0(ctx, "log").log(log_values(key, value, data_type, step=global_step, path=path))


def shutdown(ctx: APIContext | None = None) -> None:
    """Leave the run before its end. `is_running()` is False after that."""
    _session(ctx, "shutdown").close()


def _session(ctx: APIContext | None, called: str) -> Session:
    if ctx is None and not _last:
        raise ClientError(f"flare.{called}() was called before flare.init()", hint="call flare.init() first")
    return (ctx or _last[0])._session


def _of_rank_0(ctx: APIContext | None, called: str) -> Session:
    session = _session(ctx, called)
    if session.rank != "0":
        raise ClientError(f"only rank 0 can call flare.{called}(), this is rank {session.rank}")
    return session
