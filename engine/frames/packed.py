"""A file inside a shard, read at its place there: whoever reads files need not know."""

import errno
import io
import os
from pathlib import Path, PosixPath
from typing import Any, NamedTuple


class Span(NamedTuple):
    """Where the bytes of a file are."""

    shard: Path
    offset: int
    size: int


class Packed(PosixPath):
    """The path that a file would have in the folder, and its place in a shard."""

    span: Span | None = None
    """None: a path that was made of one, such as its parent."""

    @classmethod
    def at(cls, path: Path, span: Span) -> "Packed":
        """A file of that name."""
        packed = cls(path)
        packed.span = span
        return packed

    def read_bytes(self) -> bytes:
        """Its content; OSError if the shard is shorter, or not there."""
        if self.span is None:
            return super().read_bytes()
        shard, offset, size = self.span
        descriptor = os.open(shard, os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(content) != size:
            raise OSError(errno.EIO, f"{shard.name} ends before byte {offset + size}", str(shard))
        return content

    def read_ahead(self) -> None:
        """Let the system fetch its bytes; OSError if there is no shard."""
        if self.span is not None:
            descriptor = os.open(self.span.shard, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, *self.span[1:], os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)

    def open(self, mode: str = "r", *rest: Any, **more: Any) -> Any:
        """Its content as a stream of bytes, to be read only."""
        if self.span is None:
            return super().open(mode, *rest, **more)
        if mode != "rb":
            raise OSError(errno.EROFS, "it is in a shard, and is only read, as bytes", str(self))
        return io.BytesIO(self.read_bytes())

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """That of the shard, with its own size."""
        if self.span is None:
            return super().stat(follow_symlinks=follow_symlinks)
        told = [*self.span.shard.stat()]
        told[6] = self.span.size
        return os.stat_result(told)
