"""What the first process tells the others to do next. Several processes, one of them leads."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.runtime.recorded import RecordedRuntime


class Order(BaseModel):
    """One thing to do, which the first process does too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal["open", "train", "predict", "test"]
    """open: the experiment; train: a fold; predict: its validation frames; test: the test frames"""
    weights_hash: str = ""
    """to open: what the first process opened"""
    threads: int = 1
    """to open: of the CPU"""
    fold: int = 0
    at: tuple[int, int] | None = None
    """to train: the epoch and step that it goes on from"""
    recorded: RecordedRuntime | None = None
    """to train, predict and test: what the first process runs with"""
    stop_after: int | None = None
    """to train: the epochs of it that are wanted"""
    start: int = 0
    """to predict and test: frames that were predicted before"""
    temperature: float = 1.0
    """to test"""
