"""What a fold began with holds wherever it goes on, for what is predicted by it too."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import train
from engine.cli import load_config
from engine.resume import kept_setup
from engine.rundir import RunDir
from engine.runtime.device import set_up_device
from engine.runtime.recorded import RecordedRuntime
from engine.views.predictor import Predictor

NOW = RecordedRuntime(
    device="cpu",
    source="resident",
    kernels="fused",
    compile="off",
    cuda_graphs="off",
    threads=2,
    precision="fp32",
    layers="fused",
)


def test_frames_are_predicted_on_the_threads_that_their_fold_began_with(
    copied_run: RunDir, tiny_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the submission on fold 0's, whatever number this machine would choose."""
    for fold, threads in ((0, 3), (1, 1)):
        path = copied_run.runtime(fold)
        began = RecordedRuntime.read(path)
        began.model_copy(update={"threads": threads}).write(path)
    shutil.rmtree(copied_run.oof)
    for path in (copied_run.summary, copied_run.submission, copied_run.submission_zip):
        path.unlink()
    seen = list[tuple[int, int]]()
    forward = Predictor.probabilities

    def noting(self: Predictor, *given: Any) -> torch.Tensor:
        seen.append((self.networks[0].fold + 10 * len(self.networks), torch.get_num_threads()))
        return forward(self, *given)

    monkeypatch.setattr(Predictor, "probabilities", noting)
    before = torch.get_num_threads()
    arguments = ["--config", str(tiny_toml), "--out", str(copied_run.root)]
    assert train.main([*arguments, "--runtime.threads", "0"]) == 0
    assert dict(seen) == {10: 3, 11: 1, 20: 3}
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU, it goes on there")
def test_a_fold_of_a_gpu_goes_on_without_one_and_says_that_it_rounds_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runtime.device.multiplies_bf16", lambda: True)
    run, config = RunDir(tmp_path), load_config([])
    began = NOW.model_copy(
        update={"device": "cuda", "source": "dali", "precision": "bf16", "cuda_graphs": "on"}
    )
    began.write(run.runtime(1))
    with caplog.at_level(logging.INFO, logger="engine"):
        kept, policy = kept_setup(config, set_up_device(config.runtime), NOW, run, 1)
    assert policy.device.type == "cpu"
    assert (kept.runtime.source, kept.runtime.cuda_graphs) == ("resident", "off")
    assert policy.autocast_dtype == torch.bfloat16, "which a CPU can"
    (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told == (
        "fold 1 began with device = cuda, which is not here; it goes on with device = cpu, source "
        "= resident, compile = off, cuda_graphs = off, layers = fused, and from here on rounding "
        "differs from an undisturbed run's"
    )
