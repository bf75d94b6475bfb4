"""`report.html` of a run folder: written when a run or a blend is finished, or when asked for."""

import logging
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.rundir import RunDir, load_run
from engine.whole import write_text

if TYPE_CHECKING:
    from engine.frames.decode import Sample
    from engine.report.atlas import MaskOf
    from engine.selection.statistics import Differences

_log = logging.getLogger(__name__)

_FORESEEN = (OSError, ValueError, RuntimeError, ImportError)
"""A disk that is full, a file that is damaged or gone, a frame that changed, a package that an
older installation lacks."""


def write_report(run: RunDir, data: Path | None = None, out: Path | None = None) -> Path:
    """Write the page of a finished run, blend or evaluation, whole or not at all.

    Args:
        run: its folder.
        data: the dataset folder; None = the one that its config names. Where there is none,
            pictures of frames are left out, and the page says so.
        out: the file; None = `report.html` in the folder.

    Returns:
        The file.

    Raises:
        ConfigError: it is none of these, or not finished.
        ValueError: a file is damaged.
    """
    file = run.report if out is None else out
    write_text(file, page_of(run, data))
    return file


def page_of(run: RunDir, data: Path | None = None) -> str:
    """The HTML that `write_report` writes."""
    # Not to answer for a run whose page is there: they load PyTorch and matplotlib.
    if run.evaluation.exists():
        from engine.report.page.evaluation_page import evaluation_page

        return evaluation_page(run)
    if run.blend.exists():
        from engine.report.page.blend_page import blend_page

        return blend_page(run, data)
    if run.config.is_file() and not load_run(run).holds_out:
        from engine.report.page.unscored_page import unscored_page

        return unscored_page(run)
    from engine.report.page.run_page import run_page

    return run_page(run, data)


def write_comparison(
    first: RunDir, second: RunDir, found: "Differences", out: Path, data: Path | None = None
) -> None:
    """Write the page of two runs side by side, whole or not at all.

    Args:
        first: A.
        second: B.
        found: A less B.
        out: the file.
        data: the dataset folder; None = the one that A's config names.

    Raises:
        ConfigError: one is not finished.
        ValueError: a file is damaged.
    """
    from engine.report.page.comparison_page import comparison_page

    write_text(out, comparison_page(first, second, found, data))


def write_evaluation(out: RunDir, samples: Sequence["Sample"], mask_of: "MaskOf") -> None:
    """Write the page of an evaluation that was made just now, which makes nothing fail.

    Args:
        out: its folder.
        samples: the frames, in the order of `frames.npy`.
        mask_of: what was predicted of them, which no file keeps.
    """

    def page() -> str:
        from engine.report.page.evaluation_page import evaluation_page

        return evaluation_page(out, samples, mask_of)

    _or_warn(out, page)


def report_at_the_end(run: RunDir, data: Path | None = None) -> None:
    """`write_report` of what was finished just now, which no fault of the page makes fail."""
    _or_warn(run, lambda: page_of(run, data))


def _or_warn(run: RunDir, page: Callable[[], str]) -> None:
    try:
        write_text(run.report, page())
        _log.info("%s shows it", run.report)
    except _FORESEEN as error:
        again = f"python -m engine.report {shlex.quote(str(run.root))}"
        told = " ".join(str(error).split()) or type(error).__name__
        _log.warning("%s is not written (%s); %s makes it", run.report, told, again)
