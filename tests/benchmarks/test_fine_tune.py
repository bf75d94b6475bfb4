"""What the fine-tuning benchmark trains; its trainings take minutes and are no test."""

from pathlib import Path

import pytest

from benchmarks.fine_tune import CLASSES, SIDES, _config
from engine import train
from engine.cli import load_config
from engine.nyuv2 import CLASSES as ALL


def test_sides_differ_in_what_they_start_from_and_every_class_has_its_five(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(name for names in CLASSES.values() for name in names) == sorted(ALL)
    assert not {*CLASSES} & {*ALL}
    made = {}
    for side, flags in SIDES.items():
        given = [flag.format(source=tmp_path) for flag in flags]
        train.main(["demo", *_config(tmp_path, 12), *given, "--print-config"])
        (tmp_path / "side.toml").write_text(capsys.readouterr().out, encoding="utf-8")
        made[side] = load_config([tmp_path / "side.toml"])
    one, two, three = made.values()
    assert [c.model.weights for c in (two, three)] == [f"run:{tmp_path}#0"] * 2
    assert one.model_copy(update={"model": two.model}) == two
    frozen = two.training.model_copy(update={"frozen": ("encoder",)})
    assert two.model_copy(update={"training": frozen}) == three
    assert [*CLASSES][int(one.data.label_map[str(ALL.index("bed"))])] == "rest"
