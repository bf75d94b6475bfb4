"""The clock of a training, which looks at it at fixed points, and when a level was reached."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from kernels.compiling import work_s

LEVELS = (0.40, 0.45, 0.50, 0.52, 0.54, 0.56)
"""mIoU whose times are told."""

_T = TypeVar("_T")


class Point(NamedTuple):
    """What a training had come to.

    Attributes:
        train_s: seconds of training until then; no validation is in them.
        steps: that it had done.
        miou: of the fold's validation frames, by one view of the averaged network.
        validation_s: seconds that it took to say so.
    """

    train_s: float
    steps: int
    miou: float
    validation_s: float


class Clock:
    """Seconds of training, batches included, and what it had come to at every so many of them.

    Attributes:
        seconds: of training until its last step.
        steps: until now.
        points: until now; the first after the step that ends `every_s`.
    """

    def __init__(
        self,
        every_s: float = float("inf"),
        look: Callable[[], float] = float,
        keep: Callable[[], object] = bool,
        at: tuple[float, int] = (0.0, 0),
        points: Sequence[Point] = (),
    ) -> None:
        """Begin, or go on.

        Args:
            every_s: seconds of training from one point to the next.
            look: the mIoU of now.
            keep: called when there is another point.
            at: seconds that were spent and steps that were done before.
            points: measured before.
        """
        self.seconds, self.steps = at
        self._start_s: float | None = None
        self.points, self._every_s, self._look, self._keep = list(points), every_s, look, keep
        self._next_s = self._after(self.seconds)

    def over(self, batches: Iterable[_T]) -> Iterator[_T]:
        """Hand on an epoch's batches; the clock runs until the last one's step is done."""
        self._start_s = work_s()
        for batch in batches:
            yield batch
            self.seconds = self.now_s()
            self.steps += 1
            self._start_s = None
            if self.seconds >= self._next_s:
                self.look()
            self._start_s = work_s()
        self._start_s = None

    def now_s(self) -> float:
        """Seconds of training, in the midst of a step, too."""
        return self.seconds + (0.0 if self._start_s is None else work_s() - self._start_s)

    def look(self) -> None:
        """Add a point now, unless it is there."""
        if self.points and self.points[-1].steps == self.steps:
            return
        start_s = work_s()
        miou = self._look()
        spent_s = work_s() - start_s
        self.points.append(Point(round(self.seconds, 3), self.steps, miou, round(spent_s, 3)))
        self._next_s = self._after(self.seconds)
        self._keep()

    def _after(self, seconds: float) -> float:
        if self._every_s == float("inf"):
            return self._every_s
        return (seconds // self._every_s + 1) * self._every_s


def reached_s(points: Sequence[Point], level: float) -> float | None:
    """Seconds of training until the mIoU was first at a level, between points in a straight line.

    None if it never was. Nothing is known before the first point: a level that it has was reached
    then.
    """
    before: Point | None = None
    for point in points:
        if point.miou >= level:
            if before is None:
                return point.train_s
            share = (level - before.miou) / (point.miou - before.miou)
            return before.train_s + share * (point.train_s - before.train_s)
        before = point
    return None


def told_reached(points: Sequence[Point]) -> dict[str, float | None]:
    """Seconds to each of `LEVELS`, by its digits."""
    found = {f"{level:.2f}": reached_s(points, level) for level in LEVELS}
    return {name: None if s is None else round(s, 1) for name, s in found.items()}


def race(ours: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Of two curves of the JSON with one seed: our seconds to the plain recipe's last mIoU.

    `ratio` is how many times less that is than what the plain recipe took; None: not reached.
    """
    found_s = reached_s([Point(**point) for point in ours["points"]], plain["miou"])
    row = {"seed": ours["seed"], "miou": plain["miou"], "plain_s": plain["train_s"]}
    if found_s is None:
        return {**row, "seconds": None, "ratio": None}
    return {**row, "seconds": round(found_s, 1), "ratio": round(plain["train_s"] / found_s, 3)}
