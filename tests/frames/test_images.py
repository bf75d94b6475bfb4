"""Images of any kind become 8-bit RGB, as Pillow reads them, upright and whole."""

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.frames import images
from engine.frames.images import decode_image
from engine.frames.kinds import AS_IT_IS, Origin, UnfitError

HW = (17, 26)
RGB = np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)
GREY = RGB[..., 0]


def encoded(pixels: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes, *, turn: bool = True) -> tuple[NDArray[np.uint8], Origin]:
    pixels, origin = decode_image(content, turn=turn)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable, "torch warns of memory that is read-only"
    assert pixels.flags.c_contiguous
    return pixels, origin


def with_alpha(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.dstack([pixels, np.arange(np.prod(HW), dtype=np.uint8).reshape(HW)])


INDEXED = Image.fromarray(RGB).quantize(16)
CASES: dict[str, tuple[bytes, NDArray[np.uint8], str]] = {
    "grey": (encoded(GREY, "PNG"), np.dstack([GREY] * 3), "8-bit grey PNG"),
    "bilevel": (
        encoded(Image.fromarray(GREY > 99), "PNG"),
        np.dstack([(GREY > 99) * np.uint8(255)] * 3),
        "1-bit grey PNG",
    ),
    "alpha": (encoded(with_alpha(RGB), "PNG"), RGB, "8-bit RGBA PNG"),
    "grey + alpha": (
        encoded(np.dstack([GREY, RGB[..., 1]]), "PNG"),
        np.dstack([GREY] * 3),
        "8-bit grey + alpha PNG",
    ),
    "indexed": (encoded(INDEXED, "PNG"), np.array(INDEXED.convert("RGB")), "4-bit indexed PNG"),
    "transparent": (
        encoded(INDEXED, "PNG", transparency=bytes(range(16))),
        np.array(INDEXED.convert("RGB")),
        "4-bit indexed PNG",
    ),
    "TIFF": (encoded(RGB, "TIFF"), RGB, "8-bit RGB TIFF"),
    "packed TIFF": (encoded(RGB, "TIFF", compression="tiff_lzw"), RGB, "8-bit RGB TIFF"),
    "indexed TIFF": (
        encoded(INDEXED, "TIFF"),
        np.array(INDEXED.convert("RGB")),
        "8-bit indexed TIFF",
    ),
    "BMP": (encoded(RGB, "BMP"), RGB, "8-bit RGB BMP"),
    "WebP": (encoded(RGB, "WEBP", lossless=True), RGB, "8-bit RGB WebP"),
}


@pytest.mark.parametrize("name", CASES)
def test_other_colours_and_formats_become_rgb_and_are_named(name: str) -> None:
    content, expected, source = CASES[name]
    pixels, origin = decoded(content)
    np.testing.assert_array_equal(pixels, expected)
    assert origin == Origin(source)
    assert not origin.is_plain


@pytest.mark.parametrize(("kind", "byte_order"), [("PNG", "<"), ("TIFF", "<"), ("TIFF", ">")])
def test_16_bit_grey_is_divided_by_257_and_rounded(kind: str, byte_order: str) -> None:
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:5041].reshape(71, 71)
    pixels, origin = decoded(encoded(values.astype(f"{byte_order}u2"), kind))
    np.testing.assert_array_equal(pixels[..., 1], np.rint(values / 257))
    assert origin == Origin(f"16-bit grey {kind}")


def test_16_bit_grey_whose_white_is_zero_is_inverted() -> None:
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:5041].reshape(71, 71)
    pixels, _ = decoded(encoded(values, "TIFF", tiffinfo={262: 0}))
    np.testing.assert_array_equal(pixels[..., 1], 255 - np.rint(values / 257))


def png(header: bytes, data: bytes) -> bytes:
    """A PNG of this head and pixels, the sums of its chunks right."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    parts = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rgb_16_bit(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0), zlib.compress(rows))


def test_16_bit_rgb_keeps_the_high_bytes() -> None:
    pixels, origin = decoded(rgb_16_bit(RGB.astype(np.uint16) * 257))
    np.testing.assert_array_equal(pixels, RGB)
    assert origin == Origin("16-bit RGB PNG")


def test_a_cmyk_jpeg_which_adobe_inverts_shows_its_colours() -> None:
    flat = np.full((32, 32, 3), (200, 40, 90), np.uint8)
    content = encoded(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=100)
    assert b"Adobe" in content
    pixels, origin = decoded(content)
    assert np.abs(pixels.astype(int) - flat).max() <= 3
    assert origin == Origin("8-bit CMYK JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_plain_file_is_as_it_is(kind: str) -> None:
    content = encoded(RGB, kind, progressive=True)
    pixels, origin = decoded(content)
    np.testing.assert_array_equal(pixels, np.array(Image.open(io.BytesIO(content))))
    assert origin == AS_IT_IS
    assert origin.is_plain


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_undone_or_left(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"compression": "tiff_lzw"} if kind == "TIFF lzw" else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    kind = kind.split(maxsplit=1)[0]
    content = encoded(RGB, kind, exif=exif, **options)
    plain, _ = decoded(encoded(RGB, kind, **options))
    expected = Image.fromarray(plain)
    expected.getexif()[0x0112] = orientation
    upright, origin = decoded(content)
    np.testing.assert_array_equal(upright, np.array(ImageOps.exif_transpose(expected)))
    assert origin.orientation == orientation
    assert (origin.is_plain, origin.told) == (orientation == 1 and kind in ("JPEG", "PNG"), ())
    stored, origin = decoded(content, turn=False)
    np.testing.assert_array_equal(stored, plain)
    assert origin.orientation == 1
    told = ("with an EXIF orientation, which data.exif = 'ignore' passes over",)
    assert origin.told == (told if orientation > 1 else ())


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    pixels, origin = decoded(encoded(RGB, "PNG", exif=exif))
    np.testing.assert_array_equal(pixels, RGB)
    assert origin == AS_IT_IS


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of it, too
def test_exif_that_cannot_be_read_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = exif.tobytes()
    for length in range(6, len(whole)):
        pixels, _ = decoded(encoded(RGB, "PNG", exif=whole[:length] + b"\xff" * 3))
        assert sorted(pixels.shape) == sorted(RGB.shape)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bytes_after_the_picture_are_passed_over_and_told(kind: str) -> None:
    # A thumbnail has an end marker of its own, as has a second picture behind the first.
    exif = Image.Exif()
    exif[0x010E] = "x" * 50 + "\xff\xd9"
    content = encoded(RGB, kind, exif=exif)
    for more in (b"\0", b"appended by a camera", content, b"\xff\xd8\xff" * 9):
        pixels, origin = decoded(content + more)
        np.testing.assert_array_equal(pixels, decoded(content)[0])
        told = () if more == content else origin.told
        if more != content:
            assert told == ("with bytes after the end of the picture, which are passed over",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("more", [b"", b"appended by a camera" * 9])
def test_a_truncated_file_is_refused_whatever_follows(kind: str, more: bytes) -> None:
    content = encoded(RGB, kind)
    refused = 0
    # Rows of a BMP are padded to 4 bytes.
    cuts = [len(content) - (3 if kind == "BMP" else 1), len(content) // 2, len(content) // 3, 5]
    for cut in cuts if kind != "TIFF" else cuts[1:]:
        with pytest.raises(UnfitError, match="a (broken|truncated|damaged)|of another kind"):
            decode_image(content[:cut] + (more if kind in ("JPEG", "PNG") else b""), turn=True)
        refused += 1
    assert refused >= 3


def test_several_pictures_in_a_file_give_the_first_and_are_told() -> None:
    others = [Image.fromarray(255 - RGB), Image.fromarray(RGB // 2)]
    told = ("of which only the first picture of several is read",)
    for kind in ("TIFF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(RGB, kind, save_all=True, append_images=others, **options)
        pixels, origin = decoded(content)
        np.testing.assert_array_equal(pixels, RGB)
        assert origin.told == told
        assert origin.is_plain == (kind == "PNG")


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_numbers_without_a_scale_are_refused_by_name(mode: str) -> None:
    with pytest.raises(UnfitError, match=r"TIFF, whose numbers have no one scale"):
        decode_image(encoded(Image.new(mode, HW), "TIFF"), turn=True)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:Image size:Warning:PIL")
def test_a_bent_file_gives_pixels_or_is_refused(rng: np.random.Generator) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wholes = [encoded(RGB, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    wholes += [encoded(RGB, "BMP"), encoded(RGB, "TIFF", compression="tiff_lzw")]
    wholes += [content for content, *_ in CASES.values()]
    sound = 0
    for whole in wholes:
        for _ in range(25):
            bent = bytearray(whole)
            # Heads are short, and most of what can go wrong is in them.
            place = rng.integers(min(len(bent), 200) if rng.random() < 0.5 else len(bent))
            bent[place] = rng.integers(256)
            with suppress(UnfitError):
                sound += decode_image(bytes(bent), turn=True)[0].ndim == 3
    assert 0 < sound < 25 * len(wholes)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_plain_jpegs_are_not_decoded_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "tobytes", None)
    monkeypatch.setattr(images, "_converted", None)
    decode_image(encoded(RGB, "JPEG"), turn=True)


@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_damaged_png_is_refused_though_it_could_be_decoded(chunk: bytes) -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(3).integers(0, 256, (8, 8), np.uint8)
    picture = Image.fromarray(noise).convert("P")
    picture.save(stream, "PNG")
    content = bytearray(stream.getvalue())
    # The interlacing of the head; a colour; a byte that deflate may have stored as it is.
    content[content.index(chunk) + {b"IHDR": 16, b"PLTE": 9, b"IDAT": 40}[chunk]] ^= 1
    with pytest.raises(UnfitError, match=f"a damaged PNG \\({chunk.decode()} at byte"):
        decode_image(bytes(content), turn=True)


@pytest.mark.parametrize("what", ["interlacing", "half a stream", "no stream"])
def test_a_png_that_does_not_decode_is_refused_though_its_sums_are_right(what: str) -> None:
    # Pillow decodes it as it is asked for the EXIF, fails, and hands out black when asked again.
    noise = np.random.default_rng(4).integers(0, 256, (8, 8 * 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in noise)
    data = {
        "interlacing": zlib.compress(rows),
        "half a stream": zlib.compress(rows)[:60],
        "no stream": bytes(90),
    }[what]
    interlacing = 6 if what == "interlacing" else 0
    content = png(struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, interlacing), data)
    with pytest.raises(UnfitError):
        decode_image(content, turn=True)
