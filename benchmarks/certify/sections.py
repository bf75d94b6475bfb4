"""The sections of a certificate, in the order in which they are worth the time that there is."""

from typing import NamedTuple


class Section(NamedTuple):
    """One part of a certificate.

    Attributes:
        name: of the section and of its files.
        proves: what, in a few words.
        function: "module:function", called with its `Notes` in a process of its own.
        limit_s: seconds after which that is killed, whatever it does.
    """

    name: str
    proves: str
    function: str
    limit_s: int


def _section(name: str, limit_s: int, proves: str, module: str = "") -> Section:
    return Section(name, proves, f"benchmarks.certify.{module or name}:{name}", limit_s)


# On a GPU the limits add up to more than the usual budget: most sections need less than theirs.
SECTIONS = (
    _section("machine", 40, "versions, device, copy and matrix-product rates"),
    _section("run", 160, "files to submission: killed, resumed, moved from the CPU, ten views"),
    _section("tests", 100, "the kernels' tests, as machine code where there is a GPU", "checks"),
    _section("step", 160, "the training step: eager, recorded, compiled; memory, kernels, bytes"),
    _section("repeat", 60, "equal steps bit by bit, and replays that wait for nothing"),
    _section("decode", 40, "DALI's batches against the CPU's"),
    _section("sanitizer", 60, "memcheck and racecheck of the kernels' smallest tests", "checks"),
    _section("kernels", 80, "each kernel in float32 and bfloat16 against eager and its floor"),
    _section("rival", 150, "a step against the plain recipe's, in turns"),
    _section("ranks", 90, "what processes exchange: a world of one, and of all GPUs"),
    _section("tune", 330, "the form that runtime.tune chooses for the step, and its figures"),
)
"""All of them; a GPU that is lent for ten minutes has seen the most when it runs out."""
