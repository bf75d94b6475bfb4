"""Files of other forms, opened: what is not what was asked for is named in one line."""

import json
from pathlib import Path
from typing import Any, NoReturn

from engine.mistakes import ConfigError, to_install

_HEAD = 512

_STARTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself (git lfs pull)",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
    b"PK\x03\x04": "a zip archive (unpack it first)",
    b"\x89PNG": "a PNG",
    b"\xff\xd8\xff": "a JPEG",
    b"%PDF": "a PDF",
    b"MATLAB 5.0": "a MATLAB file of version 5",
    b"MATLAB 7.3": "a MATLAB file of version 7.3 (HDF5)",
    b"\x89HDF": "an HDF5 file",
}


def kind_of(path: Path) -> str:
    """What a file is, in words, by how it begins; ConfigError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file that exists") from None
    if not head:
        return "an empty file (0 bytes)"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return "a web page (HTML), not the file that its link led to: download it anew"
    known = (told for start, told in _STARTS.items() if head.startswith(start))
    return next(known, f"a file of another kind (it starts with {head[:8]!r})")


def refuse(path: Path, found: str, needed: str) -> NoReturn:
    """Refuse a file by a ConfigError: what it is, and what is needed."""
    raise ConfigError(f"{path} is {found}; needed: {needed}")


def read_mat5(path: Path, needed: str) -> dict[str, Any]:
    """The variables of a MATLAB file of version 5, as `scipy.io` reads them.

    Raises ConfigError, which says what is `needed`, for any other file.
    """
    if (kind := kind_of(path)) != _STARTS[b"MATLAB 5.0"]:
        refuse(path, kind, f"{needed}, a MATLAB file of version 5")
    from scipy.io import loadmat

    try:
        return dict(loadmat(path, squeeze_me=True))
    # What scipy raises on what is broken: zlib.error is none of the others.
    except Exception as error:  # noqa: BLE001
        told = str(error).strip() or type(error).__name__
        refuse(path, f"a broken or truncated MATLAB file ({told})", needed)


def open_hdf5(path: Path, needed: str) -> Any:
    """A file of MATLAB 7.3, or plain HDF5, opened by h5py to read.

    Raises ConfigError, which says what is `needed`, for any other file; RuntimeError without h5py.
    """
    kind = kind_of(path)
    if kind not in (_STARTS[b"MATLAB 7.3"], _STARTS[b"\x89HDF"]):
        refuse(path, kind, f"{needed}, a MATLAB file of version 7.3")
    try:
        import h5py
    except ModuleNotFoundError:
        needed = f"{to_install('h5py')}, or '.[hdf5]' in a checkout"
        raise RuntimeError(f"{path} is HDF5, and h5py is not installed: {needed}") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "truncated" in str(error):
            size = path.stat().st_size
            refuse(path, f"truncated, it ends after {size:,} bytes", f"{needed}: download it anew")
        refuse(path, f"a broken HDF5 file ({error})", f"{needed}: download it anew")


def read_json(path: Path, needed: str) -> Any:
    """What a JSON file holds; ConfigError, which says what is `needed`, for any other file."""
    kind = kind_of(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        is_known = "another kind" not in kind
        refuse(path, kind if is_known else f"no JSON ({error})", needed)
