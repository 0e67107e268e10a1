"""NVFLARE's executors: Executor, of which users make their own, and those that run a learner of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedsag_cli.errors import ClientError
from fedsag_cli.interop.base.context import Engine, FLComponent, FLContext, Signal
from fedsag_cli.interop.base.exchange import FLModelUtils, Shareable, from_shareable, make_reply
from fedsag_cli.interop.constants import AppConstants, EventType, FLContextKey, MetaKey, ReturnCode, ValidateType
from fedsag_cli.model import FLModel

__all__ = ["Executor", "FLComponentWrapper", "Learner", "LearnerExecutor", "ModelLearner", "ModelLearnerExecutor"]


class Executor(FLComponent):
    """Does the tasks of a client."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """The answer to a task: a DXO, or a return code other than OK if the task has failed."""
        raise NotImplementedError(f"{type(self).__name__} has no execute()")


class FLComponentWrapper(FLComponent):
    """The base of components that know where they are by attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.engine: Any = None
        self.fl_ctx: Any = None
        self.workspace: Any = None
        self.shareable: Any = None
        self.args: Any = None
        self.site_name: Any = None
        self.job_id: Any = None
        self.app_root: Any = None
        self.job_root: Any = None
        self.workspace_root: Any = None
        self.abort_signal: Any = None
        self.current_round = 0
        self.total_rounds = 0

    def initialize(self) -> None:
        """Called once, before the first task."""

    def finalize(self) -> None:
        """Called at the end of the run."""

    def abort(self) -> None:
        """Never called: fedsag ends the process."""

    def is_aborted(self) -> bool:
        return bool(self.abort_signal and self.abort_signal.triggered)

    def get_shareable_header(self, key: str, default: Any = None) -> Any:
        return self.shareable.get_header(key, default) if self.shareable is not None else default

    def get_context_prop(self, key: str, default: Any = None) -> Any:
        return self.fl_ctx.get_prop(key, default) if self.fl_ctx is not None else default

    def get_component(self, component_id: str) -> Any:
        return self.engine.get_component(component_id) if self.engine is not None else None

    def debug(self, msg: str) -> None:
        self.logger.debug(msg)

    def info(self, msg: str) -> None:
        self.logger.info(msg)

    def warning(self, msg: str) -> None:
        self.logger.warning(msg)

    def error(self, msg: str) -> None:
        self.logger.error(msg)

    def critical(self, msg: str) -> None:
        self.logger.critical(msg)

    def exception(self, msg: str) -> None:
        self.logger.exception(msg)

    def stop_task(self, reason: str) -> None:
        """Raises ClientError: the task has failed."""
        raise ClientError(f"{self.name}: {reason}")

    def panic(self, reason: str) -> None:
        """Raises ClientError."""
        raise ClientError(f"{self.name}: {reason}")

    def event(self, event_type: str) -> None:
        self.fire_event(event_type, self.fl_ctx)


class ModelLearner(FLComponentWrapper):
    """A learner that gets and gives FLModels, or a return code if a task has failed."""

    def train(self, model: FLModel) -> str | FLModel:
        raise NotImplementedError(f"{type(self).__name__} has no train()")

    def validate(self, model: FLModel) -> str | FLModel:
        raise NotImplementedError(f"{type(self).__name__} has no validate()")

    def get_model(self, model_name: str) -> str | FLModel:
        raise NotImplementedError(f"{type(self).__name__} has no get_model()")

    def configure(self, model: FLModel) -> None:
        """Take settings that the server sends."""


class Learner(FLComponent):
    """A learner that gets and gives Shareables."""

    def initialize(self, parts: dict[str, Any], fl_ctx: FLContext) -> None:
        """Called once, before the first task, with all components."""

    def train(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        raise NotImplementedError(f"{type(self).__name__} has no train()")

    def validate(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        raise NotImplementedError(f"{type(self).__name__} has no validate()")

    def get_model_for_validation(self, model_name: str, fl_ctx: FLContext) -> Shareable:
        raise NotImplementedError(f"{type(self).__name__} has no get_model_for_validation()")

    def abort(self, fl_ctx: FLContext) -> None:
        """Never called: fedsag ends the process."""

    def finalize(self, fl_ctx: FLContext) -> None:
        """Called at the end of the run."""


class ModelLearnerExecutor(Executor):
    """Runs a ModelLearner. Before training, it validates the model: its metrics select the best one."""

    def __init__(
        self,
        learner_id: str,
        train_task: str = AppConstants.TASK_TRAIN,
        submit_model_task: str = AppConstants.TASK_SUBMIT_MODEL,
        validate_task: str = AppConstants.TASK_VALIDATION,
        configure_task: str = AppConstants.TASK_CONFIGURE,
    ) -> None:
        super().__init__()
        self._learner_id = learner_id
        self._learner: ModelLearner | None = None
        self._tasks: dict[str, Callable[[ModelLearner, Shareable], str | FLModel | None]] = {
            train_task: self._train,
            submit_model_task: self._submit_model,
            validate_task: self._validate,
            configure_task: self._configure,
        }

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        if task_name not in self._tasks:
            return make_reply(ReturnCode.TASK_UNKNOWN)
        learner = self._learner or _learner(fl_ctx.get_engine(), self._learner_id, ModelLearner)
        _place(learner, shareable, fl_ctx, abort_signal)
        if self._learner is None:
            self._learner = learner
            learner.initialize()
        answer = self._tasks[task_name](learner, shareable)
        if isinstance(answer, FLModel):
            return FLModelUtils.to_shareable(answer)
        return make_reply(answer if isinstance(answer, str) else ReturnCode.EMPTY_RESULT)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:  # noqa: ARG002
        if event_type == EventType.END_RUN and self._learner is not None:
            self._learner.finalize()

    def _train(self, learner: ModelLearner, shareable: Shareable) -> str | FLModel:
        shareable.set_header(AppConstants.VALIDATE_TYPE, ValidateType.BEFORE_TRAIN_VALIDATE)
        model = FLModelUtils.from_shareable(shareable)
        measured = learner.validate(model)
        trained = learner.train(model)
        if isinstance(trained, FLModel) and isinstance(measured, FLModel) and measured.metrics:
            trained.meta[MetaKey.INITIAL_METRICS] = measured.metrics
            trained.metrics = measured.metrics
        return trained

    def _submit_model(self, learner: ModelLearner, shareable: Shareable) -> str | FLModel:
        return learner.get_model(shareable.get_header(AppConstants.SUBMIT_MODEL_NAME))

    def _validate(self, learner: ModelLearner, shareable: Shareable) -> str | FLModel:
        return learner.validate(FLModelUtils.from_shareable(shareable))

    def _configure(self, learner: ModelLearner, shareable: Shareable) -> str:
        learner.configure(FLModelUtils.from_shareable(shareable))
        return ReturnCode.OK


class LearnerExecutor(Executor):
    """Runs a Learner. Before training, it validates the model: its metrics select the best one."""

    def __init__(
        self,
        learner_id: str,
        train_task: str = AppConstants.TASK_TRAIN,
        submit_model_task: str = AppConstants.TASK_SUBMIT_MODEL,
        validate_task: str = AppConstants.TASK_VALIDATION,
    ) -> None:
        super().__init__()
        self._learner_id = learner_id
        self._learner: Learner | None = None
        self._train_task, self._submit_task, self._validate_task = train_task, submit_model_task, validate_task

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        if self._learner is None:
            engine = fl_ctx.get_engine()
            self._learner = _learner(engine, self._learner_id, Learner)
            self._learner.initialize(engine.get_all_components(), fl_ctx)
        if task_name == self._train_task:
            answer = self._train(self._learner, shareable, fl_ctx, abort_signal)
        elif task_name == self._submit_task:
            name = shareable.get_header(AppConstants.SUBMIT_MODEL_NAME)
            answer = self._learner.get_model_for_validation(name, fl_ctx)
        elif task_name == self._validate_task:
            shareable.set_header(AppConstants.VALIDATE_TYPE, ValidateType.MODEL_VALIDATE)
            answer = self._learner.validate(shareable, fl_ctx, abort_signal)
        else:
            return make_reply(ReturnCode.TASK_UNKNOWN)
        return answer if isinstance(answer, Shareable) else make_reply(ReturnCode.EMPTY_RESULT)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.END_RUN and self._learner is not None:
            self._learner.finalize(fl_ctx)

    def _train(self, learner: Learner, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        shareable.set_header(AppConstants.VALIDATE_TYPE, ValidateType.BEFORE_TRAIN_VALIDATE)
        measured = learner.validate(shareable, fl_ctx, abort_signal)
        trained = learner.train(shareable, fl_ctx, abort_signal)
        if not _is_ok(measured) or not _is_ok(trained):
            return trained
        dxo = from_shareable(trained)
        dxo.set_meta_prop(MetaKey.INITIAL_METRICS, from_shareable(measured).data.get(MetaKey.INITIAL_METRICS, 0))
        return dxo.to_shareable()


def _is_ok(answer: object) -> bool:
    return isinstance(answer, Shareable) and answer.get_return_code() == ReturnCode.OK


def _learner(engine: Engine, name: str, kind: type[Any]) -> Any:
    """The component with this id. Raises ClientError if it is no such learner."""
    learner = engine.get_component(name)
    if not isinstance(learner, kind):
        raise ClientError(f"learner_id is {name!r}: that component is no {kind.__name__}, but {learner!r}")
    return learner


def _place(learner: ModelLearner, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> None:
    """Tell the learner where it is, and of which round its task is."""
    workspace = fl_ctx.get_workspace()
    learner.shareable, learner.fl_ctx, learner.abort_signal = shareable, fl_ctx, abort_signal
    learner.engine, learner.workspace = fl_ctx.get_engine(), workspace
    learner.args = fl_ctx.get_prop(FLContextKey.ARGS)
    learner.site_name, learner.job_id = fl_ctx.get_identity_name(), fl_ctx.get_job_id()
    learner.workspace_root, learner.job_root = workspace.get_root_dir(), workspace.get_run_dir()
    learner.app_root = workspace.get_app_dir()
    learner.current_round = shareable.get_header(AppConstants.CURRENT_ROUND)
    learner.total_rounds = shareable.get_header(AppConstants.NUM_ROUNDS)
