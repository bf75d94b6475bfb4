"""A decoder, an encoder and a loss term of the user's own: trained, resumed, opened by consent."""

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import roomsmith
from engine import plug_ins, predict, train
from engine.cli import load_config, to_toml
from engine.config import Config
from engine.mistakes import ConfigError
from engine.model.plugged import check_plug_ins
from engine.rundir import RunDir
from tests.conftest import TINY

PACKAGE = '''
"""A package of forty lines: what somebody writes to try a decoder and a loss of their own."""
import torch
import torch.nn.functional as F
from torch import nn


class Decoder(nn.Module):
    """Every feature brought to one width and to stride 4, and added."""

    def __init__(self, widths, config):
        super().__init__()
        self.out_channels = config.segmentation_channels
        self.convs = nn.ModuleList(nn.Conv2d(w, self.out_channels, 1) for w in widths)
        self.mix = nn.Conv2d(self.out_channels, self.out_channels, 3, padding=1)

    def forward(self, features):
        size = features[0].shape[2:]
        parts = [conv(f) for conv, f in zip(self.convs, features)]
        parts = [F.interpolate(p, size, mode="bilinear") for p in parts]
        return None, self.mix(torch.stack(parts).sum(0).relu())


def dice(prediction, batch):
    """1 - soft Dice over all classes, of labelled cells."""
    logits = prediction.logits_BChw.float()
    label = F.interpolate(batch.label_BHW[:, None].float(), logits.shape[2:])[:, 0].long()
    known = (label != 255)[:, None]
    one_hot = F.one_hot(label.where(label != 255, 0), logits.shape[1]).movedim(-1, 1) * known
    prob = logits.softmax(1) * known
    return 1 - (2 * (prob * one_hot).sum() + 1) / (prob.sum() + one_hot.sum() + 1)


class Encoder(nn.Module):
    """Four strided convolutions."""

    def __init__(self, in_channels, config):
        super().__init__()
        self.channels = (8, 8, 16, 16)
        widths = zip((in_channels, 8, 8, 16), self.channels, (4, 2, 2, 2))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, s, stride=s) for i, o, s in widths)

    def forward(self, image):
        features = []
        for conv in self.convs:
            image = conv(image).relu()
            features.append(image)
        return features
'''

MINE = {
    "model": {"decoder": "mine.parts:Decoder"},
    "training": {"loss_terms": {"mine.parts:dice": 0.5}},
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module's file, in a package that can be found but was not imported."""
    folder = tmp_path / "lib" / "mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from pathlib import Path\nPath(__file__ + '.ran').touch()")
    (folder / "parts.py").write_text(PACKAGE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(plug_ins, "_permitted", set())
    yield folder / "parts.py"
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "other")]:
        del sys.modules[name]


def forget() -> None:
    """As in a process that has imported nothing of it and permits nothing."""
    plug_ins._permitted.clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.fixture
def mine(tiny_root: Path) -> Callable[..., Config]:
    """`mine(section={...})`: the tiny config with plug-ins."""

    def make(**changes: dict[str, Any]) -> Config:
        fields: dict[str, Any] = {name: dict(values) for name, values in TINY.items()}
        fields["data"]["root"] = str(tiny_root)
        for name, values in (changes or MINE).items():
            fields[name] |= values
        return load_config([], fields)

    return make


def test_a_decoder_and_a_loss_of_a_package_train_resume_and_predict(
    package: Path,
    mine: Callable[..., Config],
    tiny_root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran, file = package.parent / "__init__.py.ran", tmp_path / "mine.toml"
    file.write_text(to_toml(mine()), encoding="utf-8")
    whole, out = RunDir(tmp_path / "whole"), RunDir(tmp_path / "stopped")
    train.main(["--config", str(file), "--out", str(whole.root)])
    assert ran.exists()
    train.main(["--config", str(file), "--out", str(out.root), "--stop-after", "1"])
    # The folder's own config is not the user's word for it.
    forget()
    ran.unlink()
    refused = "mine.parts:Decoder, mine.parts:dice, and opening it would run that code; .* type "
    refused += "--allow-code"
    with pytest.raises(ConfigError, match=refused):
        train.main(["--out", str(out.root), "--resume"])
    with pytest.raises(ConfigError, match=refused):
        predict.main([str(whole.root), str(tiny_root / "test" / "image")])
    with pytest.raises(ConfigError, match=refused):
        roomsmith.open_predictor(whole.root)
    assert not ran.exists()
    train.main(["--out", str(out.root), "--resume", "--allow-code", "--until", "trained"])
    assert ran.exists()
    for fold in range(2):
        assert whole.best(fold).read_bytes() == out.best(fold).read_bytes()
    forget()
    masks = tmp_path / "masks"
    words = [str(whole.root), str(tiny_root / "test" / "image"), "--out", str(masks)]
    predict.main([*words, "--allow-code"])
    assert len([*masks.glob("*.png")]) == 5
    assert roomsmith.open_predictor(whole.root, allow_code=True).classes
    # A module that is another by now: told where it only looks, refused where it would train.
    package.write_text(PACKAGE.replace("1 - (2 *", "2 - (2 *"), encoding="utf-8")
    forget()
    with caplog.at_level(logging.WARNING, logger="engine"):
        roomsmith.open_predictor(whole.root, allow_code=True)
    assert f"mine.parts:Decoder ({package})" in caplog.text
    again = RunDir(tmp_path / "again")
    train.main(["--config", str(file), "--out", str(again.root), "--stop-after", "1"])
    package.write_text(PACKAGE, encoding="utf-8")
    with pytest.raises(ConfigError, match="its module has changed since .* was begun with it"):
        train.main(["--config", str(file), "--out", str(again.root), "--resume"])


def test_an_encoder_of_a_package_trains(
    package: Path, mine: Callable[..., Config], tmp_path: Path
) -> None:
    config = mine(
        model={"encoder": "mine.parts:Encoder", "weights": "none"}, training={"epochs": 1}
    )
    run = roomsmith.train(config, out=tmp_path / "run", folds=[0], allow_code=True)
    assert RunDir(run.path).best(0).exists()


def test_a_term_counts_by_its_weight(package: Path, mine: Callable[..., Config]) -> None:
    from engine.data.batch import Batch
    from engine.model.network import Prediction
    from engine.model.plugged import load_terms
    from engine.runtime.device import choose_operations
    from engine.training.step import TrainingLoss

    config = mine()
    plug_ins.permit(config.code)
    operations = choose_operations("reference", torch.device("cpu"))
    plain = TrainingLoss(config.training, torch.ones(13), operations)
    terms = load_terms(config.training)
    with_term = TrainingLoss(config.training, torch.ones(13), operations, terms)
    prediction = Prediction(torch.randn(2, 13, 8, 8), torch.rand(2, 8, 8))
    label = torch.randint(0, 13, (2, 32, 32)).byte()
    batch = Batch(torch.rand(2, 3, 32, 32), torch.rand(2, 32, 32), label, np.arange(2))
    ((_, term),) = terms
    expected = plain(prediction, batch).total + 0.5 * term(prediction, batch)
    assert float(with_term(prediction, batch).total) == pytest.approx(float(expected), rel=1e-6)


BROKEN = {
    "def Decoder(widths, config): pass": "found a function; expected a class of torch.nn.Module",
    "class Decoder(nn.Module): pass": "it has no method forward",
    "class Decoder(nn.Module):\n def __init__(self, widths): super().__init__()\n"
    " def forward(self, f): return None, f[0]": r"found Decoder(widths); it is called as "
    "Decoder(widths, config)",
    "class Decoder(nn.Module):\n def __init__(self, widths, config): super().__init__()\n"
    " def forward(self, f): return None, f[0]": "its instances need out_channels",
    "class Decoder(nn.Module):\n out_channels = 8\n"
    " def __init__(self, widths, config): super().__init__()\n"
    " def forward(self, f): return f[0]": "forward returns (2, 24, 16, 16); expected a tuple of "
    "None, or (2, 8, 8, 8), and (2, 8, 16, 16)",
    "class Decoder(nn.Module):\n out_channels = 8\n"
    " def __init__(self, widths, config): super().__init__()\n"
    " def forward(self, f): return None, f[9]": "parts.py:5 fails at forward of features",
    "raise RuntimeError('no GPU')": "parts.py:2 fails when it is imported: RuntimeError: no GPU",
    "class Decoders: pass": "defines no Decoder; did you mean Decoders?",
}


@pytest.mark.parametrize("source", BROKEN)
def test_what_is_no_decoder_is_told_by_what_is_missing(
    source: str, package: Path, mine: Callable[..., Config]
) -> None:
    package.write_text(f"from torch import nn\n{source}\n", encoding="utf-8")
    config = mine(model={"decoder": "mine.parts:Decoder"})
    plug_ins.permit(config.code)
    with pytest.raises(ConfigError, match=re.escape(BROKEN[source])):
        check_plug_ins(config)


def test_a_second_head_needs_a_part_at_stride_8(package: Path, mine: Callable[..., Config]) -> None:
    config = mine(model={"decoder": "mine.parts:Decoder", "supervision": 0.4})
    plug_ins.permit(config.code)
    with pytest.raises(ConfigError, match="mine.parts:Decoder has no part at stride 8, .* type "):
        check_plug_ins(config)


TERMS = {
    "def dice(prediction): return 0": "found (prediction); it is called with (prediction, batch)",
    "def dice(prediction, batch): return prediction.logits_BChw.mean((1, 2, 3))": "found (2,); "
    "expected one number, a tensor of shape ()",
    "def dice(prediction, batch): return (batch.label_BHW * 1.0).mean()": "no gradient comes from",
    "def dice(prediction, batch):\n known = batch.label_BHW != 255\n"
    " return prediction.depth_Bhw.sum() / known.sum()": "it is inf where no pixel is labelled",
    "import torch\ndice = torch.nn.Linear(2, 2)": "it has parameters, and those of a loss term",
}


@pytest.mark.parametrize("source", TERMS)
def test_what_is_no_loss_term_is_told_by_what_is_missing(
    source: str, package: Path, mine: Callable[..., Config]
) -> None:
    package.write_text(source, encoding="utf-8")
    config = mine(training={"loss_terms": {"mine.parts:dice": 1}})
    plug_ins.permit(config.code)
    with pytest.raises(ConfigError, match=re.escape(TERMS[source])):
        check_plug_ins(config)


def test_what_a_config_may_name_is_one_line(mine: Callable[..., Config]) -> None:
    for changes, told in (
        ({"model": {"decoder": "fpm"}}, "model.decoder = 'fpm': use fpn or deeplabv3plus, or one"),
        ({"model": {"decoder": "a.b:"}}, "model.decoder = 'a.b:' is no path to code"),
        ({"training": {"loss_terms": {"dice": 1}}}, "training.loss_terms = 'dice' is no path"),
        ({"model": {"encoder": "a.b:C", "weights": "timm"}}, "type model.weights=none"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            mine(**changes)
    with pytest.raises(ConfigError, match="there is no module nobody here; install its package"):
        plug_ins.source_hash("nobody.parts:Decoder")
