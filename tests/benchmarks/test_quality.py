"""The quality of both sides, compared on the tiny experiment."""

import json
from pathlib import Path

import pytest

from benchmarks.quality import main
from engine.cli import load_config
from engine.config import Config
from engine.mistakes import ConfigError

pytestmark = pytest.mark.bench("albumentations")


def test_both_sides_are_trained_and_scored_for_each_seed(
    tiny_config: Config, tiny_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_config([tiny_toml]) == tiny_config
    flags = [
        *("--data.root", tiny_config.data.root),
        *("--data.folds", "2", "--data.crop_hw", "32,64", "--data.input_hw", "48,64"),
        *("--data.blocks_per_fold", "1", "--runtime.source", "torch", "--runtime.workers", "1"),
        *("--model.encoder", tiny_config.model.encoder, "--model.weights", "none"),
        *("--training.epochs", "1", "--training.batch_size", "2"),
        *("--inference.base_hw", "48,64", "--inference.batch_size", "2"),
    ]
    out = tmp_path / "quality.json"
    assert main([*flags, "--seeds", "2", "--json", str(out)]) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["seed"] for row in rows] == [42, 1042]
    for row in rows:
        assert 0 <= row["miou"] <= 1
        assert 0 <= row["rival_miou"] <= 1
        assert row["miou"] == max(row["mious"])
        assert row["seconds"] > 0
    assert "ours - plain: " in capsys.readouterr().out


@pytest.mark.parametrize(("flag", "least"), [("--seeds", 1), ("--frames", 2)])
def test_too_few_are_refused(flag: str, least: int) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: must be at least {least}, got {least - 1}"):
        main([flag, str(least - 1)])
