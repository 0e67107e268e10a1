"""Keeps scalars for TensorBoard: a folder of event files for each site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedsag_cli.errors import JobError
from fedsag_cli.events import ValuesLogged


class TBAnalyticsReceiver:
    """`tb_folder` lies beside the server's app folder: `tensorboard --logdir WS/server/simulate_job/tb_events`.

    Numbers become scalars, at step 0 where the script gave no step; params, tags and texts become texts.
    """

    extra = "tensorboard"

    def __init__(self, tb_folder: str = "tb_events") -> None:
        """Raises JobError where `tb_folder` is no new name there."""
        if Path(tb_folder).name != tb_folder or tb_folder in ("", "..", "app_server", "checkpoints", "models"):
            raise JobError(f"TBAnalyticsReceiver: tb_folder must name a folder of its own, not {tb_folder!r}")
        self._folder = Path("..", tb_folder)
        self._files: dict[str, Any] = {}

    @property
    def folders(self) -> Sequence[Path]:
        return (self._folder,)

    def open(self, job: str) -> None:  # noqa: ARG002
        from tensorboard.compat import proto  # noqa: F401  as its own writer does
        from tensorboard.summary.writer import event_file_writer  # noqa: F401

    def write(self, values: Sequence[ValuesLogged]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        events = []  # all are made before one is written
        for each in values:
            summary = Summary(value=list(_scalars(each) if each.kind == "metric" else _texts(each)))
            events.append(Event(wall_time=each.at, step=each.step or 0, summary=summary))
        file = self._file_of(values[0].site)
        for event in events:
            file.add_event(event)
        file.flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _file_of(self, site: str) -> Any:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if site not in self._files:
            self._files[site] = EventFileWriter(str(self._folder / site))
        return self._files[site]


def _scalars(logged: ValuesLogged) -> Iterator[Any]:
    from tensorboard.compat.proto.summary_pb2 import Summary

    for name, value in logged.values.items():
        yield Summary.Value(tag=name, simple_value=float("nan") if value is None else float(value))


def _texts(logged: ValuesLogged) -> Iterator[Any]:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    for name, text in logged.values.items():
        yield Summary.Value(
            tag=name,
            metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
            tensor=TensorProto(dtype=DT_STRING, string_val=[str(text).encode()], tensor_shape=shape),
        )
