"""What other libraries do in the recipe's place has the recipe's results."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.plain.decoders import by_imagecodecs, by_pyspng
from benchmarks.subset import Subset, pixels, with_section


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.bench(name)) for name in ("imagecodecs", "pyspng")],
)
def test_a_decoder_gives_every_pixel_that_pillow_gives(
    name: str, tiny_subset: Subset, tmp_path: Path
) -> None:
    read = {"imagecodecs": by_imagecodecs, "pyspng": by_pyspng}[name]
    photo = tmp_path / "photo.jpg"
    sample = tiny_subset.dataset.train.samples[0]
    Image.fromarray(pixels(sample.image)).resize((61, 37)).save(photo, quality=90)
    for file in (*sample.present.values(), photo):
        found, expected = read(file), pixels(file)
        assert found.dtype == expected.dtype, file
        np.testing.assert_array_equal(found, expected)


@pytest.mark.bench("albumentations")
def test_onnx_runtime_has_the_networks_predictions_at_every_size(tiny_subset: Subset) -> None:
    from benchmarks.plain.model import DepthFpn
    from benchmarks.plain.onnx_runtime import OnnxNetwork

    torch.manual_seed(0)
    model = DepthFpn(tiny_subset.config.model, 13).eval()
    exported = OnnxNetwork(model, 3, threads=1)
    for batch, height, width in ((1, 64, 96), (3, 32, 128)):
        image_BCHW = torch.randn(batch, 3, height, width)
        image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected = model(image_BCHW)
        for found, wanted in zip(exported(image_BCHW), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def as_they_are(items: list[Any]) -> DataLoader[Any]:
    """A loader of what is there: a list would be one of loaders."""
    return DataLoader(items, batch_size=None, collate_fn=lambda item: item)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.bench("lightning", "albumentations")
def test_lightning_trains_to_the_recipes_weights(
    channels_last: bool, tiny_subset: Subset, tmp_path: Path
) -> None:
    from benchmarks.plain.data import crop_loader, frame_loader
    from benchmarks.plain.lightning_fold import FoldModule, fit
    from benchmarks.plain.model import build_model
    from benchmarks.plain.recipe import Recipe
    from benchmarks.plain.run import Predictor, Stepper
    from benchmarks.plain.selection import mean_iou

    config = with_section(tiny_subset.config, "training", epochs=2, validate_every=2)
    config = with_section(config, "model", dropout=0.0, drop_path=0.0)
    samples, best = tiny_subset.dataset.train.samples, tmp_path / "fold" / "best.pt"
    recipe = Recipe(workers=0, channels_last=channels_last)
    # Kept: Lightning asks a loader for its batches once more than a loop does.
    batches = list(crop_loader(samples[:8], config, recipe, 0))
    frames = list(frame_loader(samples[8:], config, recipe))
    torch.manual_seed(0)
    plain = build_model(config, recipe)
    start = {key: value.clone() for key, value in plain.state_dict().items()}
    module = FoldModule(build_model(config, recipe, start), config, recipe, len(batches), best)
    fit(module, as_they_are(batches), as_they_are(frames), tmp_path)

    stepper = Stepper(plain, config, recipe, len(batches))
    losses = [[stepper(*batch)["loss"] for batch in batches] for _ in range(2)]
    # The same operations in the same order; the framework takes the mean in float32.
    found = [line["loss"] for line in module.history]
    assert found == pytest.approx(np.mean(losses, axis=1).tolist(), rel=1e-6)
    assert module.last_loss == losses[-1][-1]
    torch.testing.assert_close(module.model.state_dict(), plain.state_dict(), rtol=0, atol=0)
    kept = torch.load(best, weights_only=True)
    torch.testing.assert_close(kept, stepper.average.state, rtol=0, atol=0)
    averaged = build_model(config, recipe, kept).eval()
    expected = mean_iou(Predictor(averaged, config, recipe).validate(samples[8:]))
    assert ["miou" in line for line in module.history] == [False, True]
    assert module.history[-1]["miou"] == expected
