"""A fold's epochs for TensorBoard: `tensorboard --logdir RUN/tensorboard`, a run there a fold."""

import os
import shutil
import socket
import time
from collections.abc import Mapping
from typing import ClassVar

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from engine.config import Config
from engine.rundir import RunDir


class EventFile:
    """`tensorboard/fold0/events.out.tfevents...`, which a process that dies leaves readable."""

    errors: ClassVar[tuple[type[Exception], ...]] = ()

    def __init__(self, _: Config, run: RunDir, fold: int) -> None:
        folder = run.root / "tensorboard" / f"fold{fold}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # The parts of the name are those of TensorFlow's writer: programs take files in its order.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{fold}"
        self._file = (folder / name).open("wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._put(Event(file_version="brain.Event:2"))
        # A TensorBoard that was watching the fold drops what the file before had told of it.
        self._put(Event(session_log=SessionLog(status=SessionLog.START)))

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Append a scalar for each figure, at step `epoch`."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        self._put(Event(step=epoch, summary=Summary(value=values)))

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _put(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
