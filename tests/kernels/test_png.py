import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kernels.png import PngHeader, decode_png, reference

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def paeth(left: int, above: int, corner: int) -> int:
    """As https://www.w3.org/TR/png-3/#9Filter-type-4-Paeth has it."""
    estimate = left + above - corner
    to_left, to_above, to_corner = (abs(estimate - value) for value in (left, above, corner))
    if to_left <= to_above and to_left <= to_corner:
        return left
    return above if to_above <= to_corner else corner


def encode(
    pixels_HW: NDArray[np.generic], filters: list[int], colour: int = 0, piece: int = 1 << 20
) -> bytes:
    """A PNG whose rows are filtered as they are told to be, in data chunks of `piece` bytes."""
    step = pixels_HW.dtype.itemsize
    rows = [row.tobytes() for row in pixels_HW.astype(pixels_HW.dtype.newbyteorder(">"))]
    filtered = bytearray()
    before = bytes(len(rows[0]))
    for kind, row in zip(filters, rows, strict=True):
        filtered.append(kind)
        for x, value in enumerate(row):
            left, corner = (row[x - step], before[x - step]) if x >= step else (0, 0)
            above = before[x]
            guess = (0, left, above, (left + above) // 2, paeth(left, above, corner))[kind]
            filtered.append((value - guess) % 256)
        before = row
    return assemble(bytes(filtered), pixels_HW.shape, 8 * step, colour, piece)


def assemble(
    filtered: bytes, hw: tuple[int, ...], bits: int, colour: int = 0, piece: int = 1 << 20
) -> bytes:
    data = zlib.compress(filtered)
    parts = [chunk(b"IDAT", data[start : start + piece]) for start in range(0, len(data), piece)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", hw[1], hw[0], bits, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    text = chunk(b"tEXt", b"Comment\0words")
    return SIGNATURE + header + text + palette + b"".join(parts) + text + chunk(b"IEND", b"")


@st.composite
def files(draw: st.DrawFn) -> tuple[NDArray[np.generic], bytes]:
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    # Few values, so that distances are often equal, or all of them.
    most = draw(st.sampled_from([3, 255 if dtype is np.uint8 else 65535]))
    pixels_HW = rng.integers(0, most, (height, width), dtype=dtype, endpoint=True)
    filters = draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    colour = draw(st.sampled_from([0, 3])) if dtype == np.uint8 else 0
    return pixels_HW, encode(pixels_HW, filters, colour, draw(st.sampled_from([5, 1 << 20])))


@settings(max_examples=200, deadline=None)
@given(files())
def test_every_filter_is_undone_and_pillow_agrees(file: tuple[NDArray[np.generic], bytes]) -> None:
    pixels_HW, content = file
    decoded = decode_png(content)
    assert decoded is not None
    assert decoded.dtype == pixels_HW.dtype
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, pixels_HW)
    np.testing.assert_array_equal(reference.decode_png(content), pixels_HW)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(2, 9), st.integers(1, 40)),
    st.sampled_from([8, 16]),
    st.integers(0, 999),
    st.sampled_from([0.02, 0.2]),
)
def test_runs_without_a_difference_are_restored_as_pillow_does(
    hw: tuple[int, int], bits: int, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    size = hw[1] * bits // 8
    filtered_HS = rng.integers(0, 256, (hw[0], 1 + size), dtype=np.uint8)
    filtered_HS[1:] *= rng.random((hw[0] - 1, 1 + size)) < share
    filtered_HS[:, 0] = rng.choice([2, 4, 4, 4], hw[0])
    content = assemble(filtered_HS.tobytes(), hw, bits)
    np.testing.assert_array_equal(decode_png(content), reference.decode_png(content))


@settings(max_examples=300, deadline=None)
@given(files(), st.data())
def test_a_damaged_file_is_refused_or_harmless(
    file: tuple[NDArray[np.generic], bytes], data: st.DataObject
) -> None:
    pixels_HW, content = file
    if data.draw(st.booleans()):
        broken = content[: data.draw(st.integers(0, len(content)))]
    else:
        place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        broken = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    decoded = decode_png(broken)
    if decoded is not None:
        np.testing.assert_array_equal(decoded, pixels_HW)


def saved(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def test_what_it_is_not_meant_for_is_left_to_others() -> None:
    grey = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    deep = Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8))
    assert decode_png(saved(grey)) is not None
    assert decode_png(saved(deep)) is not None
    for content in (
        saved(grey.convert("RGB")),
        saved(grey.convert("LA")),
        saved(grey.convert("1")),
        saved(grey.quantize(4), bits=2),
        b"\xff\xd8 a JPEG's first bytes and some more of them",
        b"",
    ):
        assert decode_png(content) is None


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
def test_too_few_or_too_many_rows_are_refused(rows: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 3, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(3 * rows)))
    assert decode_png(SIGNATURE + header + data + chunk(b"IEND", b"")) is None


@pytest.mark.parametrize("hw", [(0, 2), (2, 0), (0, 0), (1 << 14, 1 << 13)])
def test_a_file_without_pixels_or_with_too_many_is_left_to_others(hw: tuple[int, int]) -> None:
    assert decode_png(assemble(bytes(hw[0] * (1 + hw[1])), hw, 8)) is None


@pytest.mark.parametrize("kind", [5, 255])
def test_a_row_without_a_known_filter_is_refused(kind: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 0))
    content = SIGNATURE + header + chunk(b"IDAT", zlib.compress(bytes([kind, 1, 2])))
    assert decode_png(content + chunk(b"IEND", b"")) is None


def test_an_interlaced_file_is_left_to_others() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1))
    content = SIGNATURE + header + chunk(b"IDAT", zlib.compress(b"\0\7")) + chunk(b"IEND", b"")
    assert decode_png(content) is None


def parts(*, between: bytes = b"", after: bytes = b"", crc: int = 0) -> bytes:
    """A sound 1 x 2 file with chunks between and after its two data chunks."""
    data = zlib.compress(bytes([0, 1, 2]))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 0))
    second = bytearray(chunk(b"IDAT", data[4:]))
    second[-1] ^= crc
    chunks = (header, chunk(b"IDAT", data[:4]), between, bytes(second), after, chunk(b"IEND", b""))
    return SIGNATURE + b"".join(chunks)


def test_a_file_that_pillow_may_see_otherwise_is_left_to_it() -> None:
    text, sizes = chunk(b"tEXt", b"Comment\0words"), chunk(b"pHYs", bytes(9))
    for content in (parts(), parts(after=text), parts(after=text + sizes)):
        assert decode_png(content) is not None
    for content in (
        *(parts(between=text), parts(crc=1), parts()[:-12]),
        parts(after=chunk(b"pHYs", b"short")),
        parts(after=chunk(b"PLTE", bytes(771))),
        parts(after=chunk(b"tRNS", b"")),
    ):
        assert decode_png(content) is None


def test_the_header_names_size_depth_and_colours() -> None:
    header = PngHeader.of(saved(Image.new("RGB", (8, 6))))
    assert header is not None
    assert (header.hw, header.kind) == ((6, 8), "8-bit RGB PNG")
    assert PngHeader.of(b"\xff\xd8\xff") is None
    short = PngHeader.of(SIGNATURE)
    assert short is not None
    assert (short.hw, short.kind) == ((0, 0), "0-bit grey PNG")
