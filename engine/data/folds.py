"""Cut the training frames into folds, and measure how far neighbours leak across the cut.

Frames of one room follow each other in stem order, so a fold drawn at random validates on rooms it
was trained on. `blocked`, `scene` and `content` folds keep neighbours together.

N: training frames, in stem order.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from engine.config import Config, data_root
from engine.damage import DamageError
from engine.data.alike import Alike
from engine.data.leakage import BY_INDEX, ContentLeakage
from engine.frames.dataset import Split
from engine.frames.decode import Sample
from engine.frames.findings import Findings
from engine.frames.samples import stems_of
from engine.mistakes import ConfigError
from engine.rundir import Record, RunDir

IMAGE_DIGITS = 16
"""64 bits: among a million frames, two that differ have the same with probability 3e-8."""


class FoldsFile(Record):
    """`folds.json`: what `Folds` says, by stem of the frame, in sample order."""

    kind: str
    leakage: float
    fold_of: dict[str, int]
    leakage_measured: bool = True
    """Whether two names have numbers in a row; left out where they have."""
    leakage_content: ContentLeakage | None = None
    """The same by what the frames show; left out before it was measured."""
    image_of: dict[str, str] = Field(default_factory=dict)
    """The first `IMAGE_DIGITS` of the SHA-256, in hexadecimal, of each frame's image: whether
    another run's frames are among these. Older releases left it out."""


def images_of(split: Split) -> list[str]:
    """What `FoldsFile.image_of` says of the frames of a split, in their order."""
    found = split.reports
    if not isinstance(found, Findings):
        return []
    digests = (found.digest(n, "image") for n in range(len(found)))
    return [digest.hex()[:IMAGE_DIGITS] for digest in digests if digest is not None]


def is_exact(run: RunDir) -> bool:
    """Whether the folds of a run were made of what every pair of frames looks like.

    So they were by an older release, however many frames there were: it goes on with the same.
    """
    if not run.folds.is_file():
        return False
    try:
        content = FoldsFile.read(run.folds).leakage_content
    except DamageError:  # which is told, and the file made again, once the folds are there
        return False
    return content is not None and BY_INDEX not in content.method


@dataclass(frozen=True, eq=False)
class Folds:
    """Which fold validates each frame; every other fold trains on it."""

    kind: str
    fold_of: NDArray[np.int64]
    """(N,) the fold, 0 .. folds - 1, that each frame validates; -1: none does."""
    leakage: float
    """Share of frames, 0..1, with a neighbour in the training set of the fold they validate."""
    numbered: bool = True
    """Whether two names have numbers in a row: without, `leakage` is not measured."""
    content: ContentLeakage | None = None
    """The same by what the frames show; None where nobody compared them."""
    members: int = 1
    """Networks of each fold: network n is of fold n % count."""

    @property
    def count(self) -> int:
        """Number of folds; 0 where nothing is held out."""
        return int(self.fold_of.max()) + 1

    def told(self) -> str:
        """Of what kind they are, and which networks are of which where there are several."""
        told = f"{self.kind} folds"
        if self.members > 1:
            told += f", {self.members} networks each (fold {self.count} is one more of fold 0)"
        return told

    def of(self, network: int) -> int:
        """The fold whose frames a network validates."""
        return network % self.count if self.count else network

    def validation(self, fold: int) -> NDArray[np.int64]:
        """Indices, ascending, of the frames that `fold`, or a network of one, validates."""
        networks = self.count * self.members
        if self.kind != ALL and not 0 <= fold < networks:
            raise ValueError(f"fold {fold} does not exist; there are 0 .. {networks - 1}")
        return np.flatnonzero(self.fold_of == self.of(fold))

    def training(self, fold: int) -> NDArray[np.int64]:
        """Indices, ascending, of the frames that `fold`, or a network of one, trains on."""
        return np.delete(np.arange(len(self.fold_of)), self.validation(fold))

    def file(self, samples: Sequence[Sample], images: Sequence[str] = ()) -> FoldsFile:
        """What folds.json holds; `samples` are those the folds were made of, `images` theirs."""
        fold_of = dict(zip(stems_of(samples), self.fold_of.tolist(), strict=True))
        file = FoldsFile(kind=self.kind, leakage=self.leakage, fold_of=fold_of)
        more = {"image_of": dict(zip(fold_of, images, strict=True))} if images else {}
        return file.model_copy(update={**self.measured(), **more})

    def measured(self) -> dict[str, bool | ContentLeakage]:
        """What `FoldsFile` and `Summary` say besides `leakage`, where there is more to say."""
        number = {} if self.numbered else {"leakage_measured": False}
        return number | ({"leakage_content": self.content} if self.content else {})


OWN = "own"
"""`Folds.kind` where a file says which frame is of which fold."""

ALL = "all"
"""`Folds.kind` where no fold validates any frame, -1: every network trains on all of them."""


def cut_folds(config: Config, samples: Sequence[Sample], alike: Alike | None = None) -> Folds:
    """The folds of a config: those of `data.splits`, or else as `make_folds` deals them.

    Raises ConfigError for a file that does not fit the frames; else as `make_folds`.
    """
    data = config.data
    if not config.holds_out:
        nobody = np.full(len(samples), -1, np.int64)
        return Folds(ALL, nobody, 0.0, numbered=False)
    if not data.splits:
        cut = data.folds, data.fold_seed, data.blocks_per_fold
        dealt = make_folds(samples, data.fold_kind, *cut, alike)
        return replace(dealt, members=config.training.members)
    from engine.data.split_file import find_split_file, read_split_file

    path = find_split_file(data.splits, data_root(config))
    fold_of = read_split_file(path, stems_of(samples), data.folds)
    return replace(_measured(OWN, fold_of, samples, alike), members=config.training.members)


def check_same_folds(run: RunDir, folds: Folds, samples: Sequence[Sample]) -> None:
    """Refuse a run folder with other folds, where a file says or said them; by a ConfigError."""
    if not run.folds.is_file():
        return
    try:
        before = FoldsFile.read(run.folds)
    except DamageError:  # it is made again
        return
    now = folds.file(samples)
    if OWN in (before.kind, now.kind) and before.fold_of != now.fold_of:
        stems = [stem for stem, fold in now.fold_of.items() if before.fold_of.get(stem) != fold]
        first = f", {stems[0]} among them" if stems else ""
        raise ConfigError(
            f"{run.root} holds other folds: {len(stems)} of {len(samples)} frames are of another "
            f"one{first}; choose another --out, or undo data.splits"
        )


def make_folds(
    samples: Sequence[Sample],
    kind: str,
    folds: int,
    seed: int = 42,
    blocks_per_fold: int = 8,
    alike: Alike | None = None,
) -> Folds:
    """Deal training frames, sorted by stem, to at least two folds.

    By `kind` at "random" (scikit-learn's `KFold(folds, shuffle=True, random_state=seed)`), in
    "blocked" runs of stems (more `blocks_per_fold` mix rooms better), by "scene" of scenes.csv, or
    by "content", which needs `alike`: what `find_alike` says of the same frames.

    Raises:
        ValueError: fewer frames, blocks, scenes or groups of frames that are alike than folds, an
            unknown kind, or "scene" without a scene for every frame.
    """
    if folds < 2:
        raise ValueError(f"data.folds must be at least 2, got {folds}")
    if len(samples) < folds:
        raise ValueError(f"{len(samples)} frames cannot fill {folds} folds; lower data.folds")
    if kind == "blocked":
        fold_of = _blocked(samples, folds, blocks_per_fold)
    else:
        from engine.data.other_folds import other_folds

        fold_of = other_folds(samples, kind, folds, seed, alike)
    return _measured(kind, fold_of, samples, alike)


def _measured(
    kind: str, fold_of: NDArray[np.int64], samples: Sequence[Sample], alike: Alike | None
) -> Folds:
    """The folds, with how far they leak."""
    leaks = sum(
        any(fold_of[other] != fold_of[frame] for other in beside)
        for frame, beside in enumerate(neighbours(samples))
    )
    keys = set(map(_split, stems_of(samples)))
    numbered = any((prefix, number + 1) in keys for prefix, number in keys)
    content = alike.leakage(fold_of, stems_of(samples)) if alike else None
    return Folds(kind, fold_of, leaks / len(samples), numbered, content)


def contiguous_blocks(samples: Sequence[Sample], blocks: int) -> NDArray[np.int64]:
    """(N,) the block, 0 .. blocks - 1, of each frame: runs of numbers of about one size.

    A cut moves to a gap in the numbering where there is one within half a block: rooms stay whole.
    No block is empty, for up to N of them.
    """
    # In numeric order, so that frames 9 and 10 are adjacent even where stems are not padded.
    keys = [(*_split(stem), stem) for stem in stems_of(samples)]
    order = sorted(range(len(samples)), key=keys.__getitem__)
    beside = neighbours(samples)
    gaps = [p for p in range(1, len(order)) if order[p - 1] not in beside[order[p]]]
    size, bounds = len(samples) / blocks, [0]
    for number in range(1, blocks):
        even = round(number * size)
        # Every block keeps a frame, whatever the cuts beside it do.
        lowest, highest = bounds[-1] + 1, len(samples) - (blocks - number)
        # The last gap up to there, and the first behind it.
        place = bisect_right(gaps, min(even, highest))
        first = bisect_left(gaps, max(even, lowest))
        beside_it = [*gaps[max(place - 1, 0) : place], *gaps[first : first + 1]]
        near = [
            gap for gap in beside_it if abs(gap - even) <= size / 2 and lowest <= gap <= highest
        ]
        bounds.append(min(near, key=lambda gap: abs(gap - even), default=max(even, lowest)))
    block_of = np.empty(len(samples), np.int64)
    block_of[order] = np.repeat(np.arange(blocks), np.diff([*bounds, len(samples)]))
    return block_of


def neighbours(samples: Sequence[Sample]) -> list[list[int]]:
    """For each frame, the frames that are likely views of the same room: none, one or two.

    Their stems end in the number before or after its own, behind the same prefix: a gap in the
    numbering separates scenes. Where no stem ends in a number, they are adjacent in stem order.
    """
    keys = [*map(_split, stems_of(samples))]
    if all(number < 0 for _, number in keys):
        keys = [("", position) for position in range(len(samples))]
    place = {key: position for position, key in enumerate(keys)}
    beside = (((prefix, number - 1), (prefix, number + 1)) for prefix, number in keys)
    return [[place[key] for key in both if key in place] for both in beside]


def _split(stem: str) -> tuple[str, int]:
    """Prefix and number of a stem; without one -2, which is next to no number, nor to itself."""
    match = re.fullmatch(r"(.*?)([0-9]+)", stem, re.DOTALL)
    return (match[1], int(match[2])) if match else (stem, -2)


def _blocked(samples: Sequence[Sample], folds: int, blocks_per_fold: int) -> NDArray[np.int64]:
    blocks = folds * blocks_per_fold
    if len(samples) < blocks:
        raise ValueError(
            f"{len(samples)} frames cannot fill {folds} folds x {blocks_per_fold} blocks; "
            f"lower data.blocks_per_fold to {len(samples) // folds} or less"
        )
    block_of = contiguous_blocks(samples, blocks)
    rounds = np.bincount(block_of).reshape(blocks_per_fold, folds)
    fold_of_block = np.empty_like(rounds)
    filled = np.zeros(folds, np.int64)
    # One block of every round to each fold, the largest to the emptiest: folds stay even in size
    # and each sees every part of the recording, which is often sorted by kind of room.
    for number, sizes in enumerate(rounds):
        largest, emptiest = np.argsort(-sizes, kind="stable"), np.argsort(filled, kind="stable")
        fold_of_block[number, largest] = emptiest
        filled[emptiest] += sizes[largest]
    return fold_of_block.reshape(-1)[block_of]
