"""What follows from the rest of a run folder is made again where it is damaged."""

import logging
import zipfile

from engine import sums
from engine.damage import DamageError
from engine.rundir import RunDir
from engine.views.submission import write_zip
from engine.whole import discard, whole_file

_log = logging.getLogger(__name__)


def mend(run: RunDir) -> None:
    """Remove what is damaged and follows from other files; the stages that write it come next.

    Of `submission.npy` and `.zip` each holds the other, so one that is missing is back at once.
    """
    derived = [run.environment, run.folds, run.temperature, run.summary, run.atlas]
    derived += [run.frame_counts, run.worst_frames, run.submission, run.submission_zip]
    derived += [run.submission_csv, run.parity]
    for path in derived:
        try:
            if path.exists():
                sums.check(path)
        except DamageError as error:
            _log.warning("%s; it is made again", error.told)
            discard(path)
    if run.submission.exists() != run.submission_zip.exists():
        _restore_submission(run)


def _restore_submission(run: RunDir) -> None:
    if run.submission.exists():
        write_zip(run, run.submission.read_bytes())
        _log.info("%s is made of %s", run.submission_zip, run.submission.name)
        return
    try:
        with zipfile.ZipFile(run.submission_zip) as archive:
            if run.submission.name not in archive.namelist():
                return
            content = archive.read(run.submission.name)
    except zipfile.BadZipFile:
        discard(run.submission_zip)
        return
    with whole_file(run.submission, summed=True, needed=len(content)) as temporary:
        temporary.write_bytes(content)
    _log.info("%s is made of %s", run.submission, run.submission_zip.name)
