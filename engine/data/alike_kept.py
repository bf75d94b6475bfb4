"""What is alike among very many frames, kept from one command to the next: a search takes minutes.

    CACHE/checked-KEY.alike    SHA-256 of what follows, line break; JSON, line break; arrays

The key is a hash of the frames' thumbnails and stems, and of what searches. What is damaged, or not
there, is searched for anew.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.alike import Alike, find_alike
from engine.data.likeness import Likeness
from engine.frames.remembered import note_use
from engine.whole import whole_file

_log = logging.getLogger(__name__)

# It changes whenever the same frames are linked otherwise, or the file gets another form.
_VERSION = 1

# Of `Alike` and its `Likeness`, in the order of their fields.
_ARRAYS = {
    "direct_P2": ("<i8", 2),
    "group_N": ("<i8", 1),
    "pair_P2": ("<i8", 2),
    "alike_P": ("<f8", 1),
    "nearest_N": ("<f8", 1),
    "drawn_K2": ("<i8", 2),
    "drawn_K": ("<f8", 1),
}


def kept_alike(
    folder: Path, thumbnail_NHW3: NDArray[np.uint8], stems: Sequence[str], *, exact: bool
) -> Alike:
    """What `find_alike` finds of the same arguments; the log says if it cannot be kept."""
    what = repr((_VERSION, exact, np.__version__, thumbnail_NHW3.shape)).encode()
    key = hashlib.sha256(what + "/".join(stems).encode("utf-8", "surrogateescape"))
    key.update(np.ascontiguousarray(thumbnail_NHW3).data)
    file = folder / f"checked-{key.hexdigest()[:32]}.alike"
    note_use(file)
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _load(file)
    alike = find_alike(thumbnail_NHW3, stems, exact=exact)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save(file, alike)
    except OSError as error:
        _log.info("which frames are alike cannot be remembered: %s", error)
    return alike


def _save(file: Path, alike: Alike) -> None:
    found = (alike.direct_P2, alike.group_N, *alike.found)
    lengths = [len(array) for array in found]
    head = json.dumps({"method": alike.method, "lengths": lengths}).encode() + b"\n"
    arrays = (
        np.ascontiguousarray(array, kind).data
        for array, (kind, _) in zip(found, _ARRAYS.values(), strict=True)
    )
    pieces: list[bytes | memoryview] = [head, *arrays]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    with whole_file(file) as temporary, temporary.open("wb") as stream:
        for piece in chain([digest.hexdigest().encode() + b"\n"], pieces):
            stream.write(piece)


def _load(file: Path) -> Alike:
    """What `_save` wrote; ValueError if it is damaged."""
    with file.open("rb") as stream:
        told, head = stream.readline(), stream.readline()
        said, digest = json.loads(head), hashlib.sha256(head)
        counts = [
            length * columns
            for length, (_, columns) in zip(said["lengths"], _ARRAYS.values(), strict=True)
        ]
        # Before so much memory is asked for.
        if stream.tell() + 8 * sum(counts) != os.fstat(stream.fileno()).st_size:
            raise ValueError("it has another size")
        found = []
        for count, (kind, columns) in zip(counts, _ARRAYS.values(), strict=True):
            array = np.fromfile(stream, kind, count)
            digest.update(array.data)
            found.append(array.reshape(-1, columns) if columns > 1 else array)
        if told != digest.hexdigest().encode() + b"\n":
            raise ValueError("it does not fit its checksum")
    direct_P2, group_N, *likeness = found
    return Alike(direct_P2, group_N, Likeness(*likeness), said["method"])
