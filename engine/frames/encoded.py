"""Which files of a copy by `engine.prepare encode` hold the pixels of which files of the original.

A copy has the fingerprint of its original: what one was trained on, the other goes on with. Entered
only where there is a copy.
"""

from pathlib import Path

from engine.frames.dataset import ENCODED
from engine.rundir import Record


class Encoded(Record):
    """What `encoded.json` in the folder of a copy holds."""

    originals: dict[str, str]
    """`Origin.digest` of each file that was written anew, and that of the file which it was made
    of. A file that changes after that has another digest, and stands for itself."""


def originals_of(root: Path) -> dict[str, str]:
    """The digests of a dataset's files that stand for others; none where it is no copy.

    Raises ValueError: the file that says so is damaged.
    """
    path = root / ENCODED
    return Encoded.read(path).originals if path.exists() else {}
