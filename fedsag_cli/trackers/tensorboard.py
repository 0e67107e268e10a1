"""Stores logged values and the settings for TensorBoard: a folder of event files for each site and the whole run."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fedsag_cli.arguments import Form, checked
from fedsag_cli.events import ValuesLogged
from fedsag_cli.facts import Facts, Nvflare
from fedsag_cli.trackers import RunEnd, RunFacts, Status
from fedsag_cli.workspace import SERVER

_NEW_FOLDER = Form(
    r"(?!(?:\.\.?|app_server|checkpoints|models)\Z)[^/]+", "a folder name that nothing else uses", "tb_events"
)
_VERSION = "brain.Event:2"  # the first record of each file
_SESSION = ".hparams"  # at the end of the names of the files with the settings and the status


class TBAnalyticsReceiver:
    """Writes logged values to TensorBoard's event files.

    Numbers become scalars, at step 0 if the script gave no step. Params, tags and texts become texts. The folder
    `server` has the settings, for the page HParams, where runs are compared.
    To see them: `tensorboard --logdir WS/server/simulate_job/tb_events`.
    """

    facts = Facts(
        extra="tensorboard",
        imports=(
            "tensorboard.compat.proto.event_pb2",
            "tensorboard.plugins.hparams.metadata",
            "tensorboard.summary.writer.record_writer",
        ),
        nvflare=Nvflare(
            path="nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver",
            ignored=("events",),
            added={"events": ["fed.analytix_log_stats"]},
        ),
    )
    extra = facts.extra

    @checked
    def __init__(
        self,
        tb_folder: Annotated[
            str, _NEW_FOLDER, "folder of the event files, beside the server's app folder"
        ] = "tb_events",
    ) -> None:
        self._folder = Path("..", tb_folder)
        self._files: dict[str, Path] = {}  # by site; each is open only while it is written: there may be thousands
        self._num_files = 0
        self._proto: Any = None
        self._hparams: Any = None
        self._api: Any = None
        self._about_session: Any = None
        self._record_writer: Any = None

    @property
    def folders(self) -> Sequence[Path]:
        return (self._folder,)

    @property
    def view(self) -> str:
        return f"tensorboard --logdir {shlex.quote(str(self._folder.resolve()))}"

    def begin(self, facts: RunFacts) -> None:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.compat.proto.summary_pb2
        import tensorboard.compat.proto.tensor_pb2
        import tensorboard.compat.proto.tensor_shape_pb2
        import tensorboard.compat.proto.types_pb2
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._proto, self._record_writer = tensorboard.compat.proto, RecordWriter
        self._hparams, self._api, self._about_session = plugin_data_pb2, api_pb2, metadata
        started = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        given = {**facts.settings, "seed": facts.seed, "clients": len(facts.sites)}
        for name, value in given.items():
            if isinstance(value, bool):
                started.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                started.hparams[name].number_value = value
            else:
                started.hparams[name].string_value = str(value)
        for earlier in (self._folder / SERVER).glob(f"*{_SESSION}"):  # TensorBoard would read it, and not the new one
            earlier.unlink()
        self._write_session(metadata.SESSION_START_INFO_TAG, session_start_info=started)

    def write(self, values: Sequence[ValuesLogged]) -> None:
        events = [self._event(each) for each in values]  # all are created before the first is written
        site = values[0].site
        if site not in self._files:
            self._files[site] = self._new_file(site)
        self._append(self._files[site], *events)

    def finish(self, end: RunEnd) -> None:
        status = self._api.STATUS_SUCCESS if end.status is Status.FINISHED else self._api.STATUS_FAILURE
        ended = self._hparams.SessionEndInfo(status=status, end_time_secs=time.time())
        self._write_session(self._about_session.SESSION_END_INFO_TAG, session_end_info=ended)

    def _write_session(self, tag: str, **info: Any) -> None:
        """Write that what the page HParams calls a session starts, or ends."""
        about = self._about_session.create_summary_metadata(self._hparams.HParamsPluginData(**info))
        value = self._proto.summary_pb2.Summary.Value(tag=tag, metadata=about, tensor=self._about_session.NULL_TENSOR)
        summary = self._proto.summary_pb2.Summary(value=[value])
        file = self._new_file(SERVER, suffix=_SESSION)
        self._append(file, self._proto.event_pb2.Event(wall_time=time.time(), summary=summary))

    def _new_file(self, site: str, *, suffix: str = "") -> Path:
        folder = self._folder / site
        folder.mkdir(parents=True, exist_ok=True)
        self._num_files += 1
        name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}.{self._num_files}{suffix}"
        self._append(folder / name, self._proto.event_pb2.Event(wall_time=time.time(), file_version=_VERSION))
        return folder / name

    def _append(self, file: Path, *events: Any) -> None:
        with file.open("ab") as opened:
            writer = self._record_writer(opened)
            for event in events:
                writer.write(event.SerializeToString())

    def _event(self, logged: ValuesLogged) -> Any:
        of_kind = self._scalar if logged.kind == "metric" else self._text
        summary = self._proto.summary_pb2.Summary(value=[of_kind(*named) for named in logged.values.items()])
        return self._proto.event_pb2.Event(wall_time=logged.at, step=logged.step or 0, summary=summary)

    def _scalar(self, name: str, value: float | str | None) -> Any:
        number = float("nan") if value is None else float(value)
        return self._proto.summary_pb2.Summary.Value(tag=name, simple_value=number)

    def _text(self, name: str, value: float | str | None) -> Any:
        proto, shape = self._proto, self._proto.tensor_shape_pb2.TensorShapeProto
        about = proto.summary_pb2.SummaryMetadata
        return proto.summary_pb2.Summary.Value(
            tag=name,
            metadata=about(plugin_data=about.PluginData(plugin_name="text")),
            tensor=proto.tensor_pb2.TensorProto(
                dtype=proto.types_pb2.DT_STRING,
                string_val=[str(value).encode()],
                tensor_shape=shape(dim=[shape.Dim(size=1)]),
            ),
        )
