"""Roomsmith from Python: train, open, predict, evaluate and blend runs of RGB-D segmentation.

    import roomsmith

    run = roomsmith.train("demo", out="runs/demo")
    prediction = run.predictor().predict(image)      # (H, W, 3) uint8 -> mask (H, W) uint8
    print(run.summary.oof.miou, prediction.probabilities.shape)

Everything stands in `engine.api`; each docstring there says shapes, types and errors.
"""

import roomsmith.installation
from engine.api import (
    Config,
    ConfigError,
    Prediction,
    Predictor,
    Run,
    Sight,
    blend,
    evaluate,
    open_predictor,
    start_logging,
    train,
)

__version__ = roomsmith.installation.version()

__all__ = [
    "Config",
    "ConfigError",
    "Prediction",
    "Predictor",
    "Run",
    "Sight",
    "blend",
    "evaluate",
    "open_predictor",
    "start_logging",
    "train",
]
