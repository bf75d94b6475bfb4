"""Out-of-fold prediction looks at the frames that training of the last fold kept."""

import shutil
from pathlib import Path

import pytest

from engine.config import Config
from engine.experiment import complete
from engine.frames.decode import Frame, Sample, read_frame
from engine.rundir import RunDir


def test_frames_that_training_kept_are_not_decoded_again(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noting(sample: Sample) -> Frame:
        read.append(sample.image.parent.parent.name)
        return read_frame(sample)

    monkeypatch.setattr("engine.data.sources.read_frame", noting)
    runtime = tiny_config.runtime.model_copy(update={"source": "resident"})
    training = tiny_config.training.model_copy(update={"epochs": 1})
    config = tiny_config.model_copy(update={"runtime": runtime, "training": training})
    run = RunDir(tmp_path / "run")
    assert complete(config, run, [0, 1], resume=False)
    assert read == 5 * ["test"]
    # By another process, which trained nothing and so holds no frames: the same bytes.
    stored = (run.oof / "prob.npy").read_bytes()
    read.clear()
    shutil.rmtree(run.oof)
    run.summary.unlink()
    assert complete(config, run, [], resume=False)
    assert read.count("train") == 12
    assert (run.oof / "prob.npy").read_bytes() == stored
