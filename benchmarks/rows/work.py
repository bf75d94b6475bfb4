"""What no implementation can do without, for every row: bytes to move, operations to compute."""

import functools

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import Work
from benchmarks.subset import Job
from engine.config import Config, ModelConfig
from engine.model.network import Network
from engine.views.zoom import base_hw, view_hw

_INTERPOLATE = 6
"""Operations to interpolate a class of a pixel along row and column."""
_EXPONENTIAL = 20

_MOMENTS = 4 * 10
"""Bytes a weight moves: AdamW reads weight, gradient and two moments and writes three; the average
reads two, writes one."""


def data_cached(job: Job) -> Work:
    """Per image: the frame's part under the crop is read, the crop written.

    A colour of an output pixel: 3 operations to interpolate along the column, 2 to clip; of a
    pixel of a resized line: 3 along the row, 2 for light and normalisation.
    """
    data, samples = job.config.data, job.dataset.train.samples
    crop_px, input_px = data.crop_hw[0] * data.crop_hw[1], data.input_hw[0] * data.input_hw[1]
    read = round(_frame_px(job) * crop_px / input_px) * (3 + 2 + 1)
    written = len(samples) * crop_px * (4 * job.config.model.in_channels + 4 + 1)
    return Work(read + written, len(samples) * crop_px * 2 * 3 * 5)


def data_cold(job: Job) -> Work:
    """The files are read and the decoded frames kept once; decoding itself is not counted."""
    work = data_cached(job)
    return Work(work.bytes + decode(job).bytes, work.flops)


def decode(job: Job) -> Work:
    """The files are read, the pixels written; decoding itself is not counted."""
    samples = job.dataset.train.samples
    read = sum(file.stat().st_size for sample in samples for file in sample.present.values())
    return Work(read + _frame_px(job) * (3 + 2 + 1), 0)


def train_step(job: Job) -> Work:
    """See `step`."""
    return step(job.config)


def step(config: Config) -> Work:
    """The network forward and backward; weights, moments and average read and written.

    Backward counts twice: every product of the forward pass has two factors to find a gradient for.
    (PyTorch's counter takes a depthwise convolution for a dense one there.)
    """
    classes, images = len(config.data.classes), config.training.batch_size
    flops, parameters = _flops(config.model, classes, images, config.data.crop_hw)
    return Work(parameters * _MOMENTS, 3 * flops)


def epoch(job: Job) -> Work:
    """The steps of an epoch, and validation."""
    steps = max(1, len(job.training) // job.config.training.batch_size)
    one, validated = train_step(job), validation(job)
    return Work(steps * one.bytes + validated.bytes, steps * one.flops + validated.flops)


def validation(job: Job) -> Work:
    """A pass a frame, softmax, resizing and counting; labels and images are read."""
    frames, hw = len(job.validation), job.validation[0].hw
    flops = _view_flops(job.config, hw, 1.0, 1) + _counting_flops(job.config, hw, 1)
    return Work(frames * hw[0] * hw[1] * (3 + 1), frames * flops)


def oof(job: Job) -> Work:
    """Passes, softmax, resizing and counting; images and labels read, probabilities written."""
    config, frames, hw = job.config, len(job.validation), job.validation[0].hw
    height, width = base_hw(config.data, config.inference, hw)
    maps = len(config.inference.temperatures) * len(config.data.classes)
    moved = hw[0] * hw[1] * (3 + 1) + maps * (height // 2) * (width // 2) * 2
    return Work(frames * moved, frames * _scoring_flops(config, hw))


def blend_weights(job: Job) -> Work:
    """Stores and labels are read once, every map is resized once, every candidate compared."""
    samples = job.dataset.train.samples
    stored = sum(job.store(model).stat().st_size for model in range(job.models))
    flops = len(samples) * _counting_flops(job.config, samples[0].hw, job.models)
    return Work(stored + _frame_px(job), flops)


def chain(job: Job) -> Work:
    """Of two runs: epochs, views of every frame, their own submissions; then the blend's."""
    config, samples, test = job.config, job.dataset.train.samples, job.dataset.test.samples
    runs, hw, trained = 2, samples[0].hw, epoch(job)
    epochs = runs * config.data.folds * config.training.epochs
    # Each fold of each run sees every test frame, once for its own and once for the blend.
    views = 2 * config.data.folds * len(test) * _views_flops(config, hw, 1)
    flops = epochs * trained.flops + runs * (len(samples) * _scoring_flops(config, hw) + views)
    flops += len(samples) * _counting_flops(config, hw, runs)
    return Work(epochs * trained.bytes, flops)


def _frame_px(job: Job) -> int:
    return sum(sample.hw[0] * sample.hw[1] for sample in job.dataset.train.samples)


def _scoring_flops(config: Config, hw: tuple[int, int]) -> int:
    """Operations of a frame by every view, scored at every temperature."""
    temperatures = len(config.inference.temperatures)
    return _views_flops(config, hw, temperatures) + _counting_flops(config, hw, temperatures)


def _views_flops(config: Config, hw: tuple[int, int], temperatures: int) -> int:
    """Operations of a frame of size `hw` by every view."""
    views = (_view_flops(config, hw, scale, temperatures) for scale in config.inference.scales)
    return (1 + config.inference.flip) * sum(views)


def _view_flops(config: Config, hw: tuple[int, int], scale: float, temperatures: int) -> int:
    """Operations of a frame of size `hw` by a view: pass, softmax, resizing."""
    classes, out_hw = len(config.data.classes), base_hw(config.data, config.inference, hw)
    height, width = view_hw(out_hw, scale)
    passes, _ = _flops(config.model, classes, 1, (height, width))
    softmax = height * width * classes * (_INTERPOLATE + temperatures * (_EXPONENTIAL + 3))
    resizing = out_hw[0] * out_hw[1] * classes * temperatures * (_INTERPOLATE + 1)
    return passes + softmax + resizing


def _counting_flops(config: Config, hw: tuple[int, int], maps: int) -> int:
    """Operations to resize `maps` probability maps of a frame to the label, find the largest."""
    return maps * hw[0] * hw[1] * len(config.data.classes) * (_INTERPOLATE + 1)


@functools.cache
def _flops(model: ModelConfig, classes: int, images: int, hw: tuple[int, int]) -> tuple[int, int]:
    """Of a forward pass, and the number of weights."""
    # Nothing is computed on the meta device, only counted.
    with torch.device("meta"):
        network = Network(model, classes).eval()
        image_BCHW = torch.empty(images, model.in_channels, *hw)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image_BCHW)
    return counter.get_total_flops(), sum(weight.numel() for weight in network.parameters())
