"""Which sizes of frames a graph takes; told before PyTorch is loaded."""

from collections.abc import Sequence

from engine.config import Config
from engine.mistakes import ConfigError
from engine.settings import SURFACES
from engine.trained import TrainedRun

Size = tuple[int, int]

_REMEDY = (
    "name the size of your frames, such as --size 480x640, and export once more for each other "
    "size, to another --out"
)


def sizes_follow_the_frame(config: Config) -> bool:
    """Whether views of a larger frame are larger: a graph then is of frames of one size."""
    asked = config.inference.base_hw
    return asked == "own" or (asked == "training" and config.data.fit == "keep")


def needed_hw(chosen: Sequence[TrainedRun], asked: Size | None) -> Size | None:
    """The size of frames that the graph is made for; None for any.

    Raises:
        ConfigError: views or surfaces follow the frame's size, and none was asked for.
    """
    if asked is not None:
        return asked
    for one in chosen:
        if surfaces := [seen for seen in one.inputs if seen in SURFACES]:
            raise ConfigError(
                f"{one.run.root} has model.input = {surfaces[0]!r}, whose surfaces are "
                f"fitted in a larger frame to larger squares of its pixels: {_REMEDY}"
            )
    following = [one for one in chosen if sizes_follow_the_frame(one.config)]
    if not following:
        return None
    base = following[0].config.inference.base_hw
    raise ConfigError(
        f"{following[0].run.root} looks at a larger frame by larger views (inference.base_hw = "
        f"{base!r}), and a graph has views of one size: {_REMEDY}"
    )
