"""TensorBoard: the ledger as event files in the run folder: `tensorboard --logdir runs`."""

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

# The names of protocol buffers are made when they are imported: type checkers do not see them.
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader  # type: ignore[reportMissingImports]
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[reportAttributeAccessIssue, reportMissingImports]
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # type: ignore[reportAttributeAccessIssue, reportMissingImports]
from tensorboard.compat.proto.tensor_pb2 import TensorProto  # type: ignore[reportAttributeAccessIssue, reportMissingImports]
from tensorboard.compat.proto.types_pb2 import DT_STRING  # type: ignore[reportAttributeAccessIssue, reportMissingImports]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[reportMissingImports]

from pennyweight.training.run import Run
from pennyweight.training.trackers.tracker import Line, event, scalars

FOLDER = "tensorboard"
TEXT = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))


class TensorBoard:
    """One event a line, each complete on disk before the next; no network, no thread.

    A run that goes on writes its ledger anew into one file, with the times of the first, so that no step stands twice.
    """

    def begin(self, run: Run, folder: Path, lines: Sequence[Line]) -> None:
        """Writes what the ledger holds, then takes away the files of the process before."""
        place = folder / FOLDER
        place.mkdir(exist_ok=True)
        earlier = sorted(place.glob("events.out.tfevents.*"))
        times = _times(earlier)
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{time.time_ns()}"
        self._file: BinaryIO = (place / name).open("xb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # A viewer that already shows the run forgets what it has read.
        self._write(Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START)))
        for line in lines:
            self._write(_event(line, times.get(int(line["step"]), time.time())))
        os.fsync(self._file.fileno())
        for path in earlier:
            path.unlink()

    def write(self, line: Line) -> None:
        """One event."""
        self._write(_event(line, time.time()))

    def end(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, one: Event) -> None:
        self._records.write(one.SerializeToString())


def _event(line: Line, wall_time: float) -> Event:
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(line).items()]
    if (said := event(line)) is not None:
        text = TensorProto(dtype=DT_STRING, string_val=[said.encode()])
        values.append(Summary.Value(tag=f"events/{line['kind']}", metadata=TEXT, tensor=text))
    return Event(wall_time=wall_time, step=int(line["step"]), summary=Summary(value=values))


def _times(files: Sequence[Path]) -> dict[int, float]:
    """When each step was first written down; a file that ends in the middle of an event is read so far."""
    times: dict[int, float] = {}
    for path in files:
        for one in LegacyEventFileLoader(str(path)).Load():
            if one.HasField("summary"):
                times.setdefault(one.step, one.wall_time)
    return times
