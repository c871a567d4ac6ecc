"""Which image files are opened: formats that are named, whole, of a size that fits; and the sentence for the others."""

import io
from pathlib import Path

import image_miniatures as made
import pytest
from PIL import Image, PpmImagePlugin

from bdray import imagefile
from bdray.attacks._images import read
from bdray.data import Data
from bdray.data._images import decode
from bdray.imagefile import opened
from bdray.spec import BadInput

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> bytes:
    sink = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(sink, kind)
    return sink.getvalue()


def test_the_formats_that_are_named() -> None:
    for kind in imagefile.FORMATS:
        with opened(encoded(kind)) as image:
            image.load()
            assert (image.format, image.size) == (kind, (9, 7))


@pytest.mark.parametrize("content", [EPS, encoded("GIF"), encoded("PCX"), encoded("TGA"), b"RIFF", b""])
def test_no_other_format_is_opened_whatever_its_name(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS would be handed to Ghostscript."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript"))
    file = tmp_path / "cat.jpg"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"the image .*cat\.jpg is damaged \(cannot identify image file"):
        decode([file], 8)
    with pytest.raises(BadInput, match=r"blend\.image: got .*cat\.jpg', expected a picture file that can be read"):
        read("blend.image", str(file))


def test_a_photo_whose_line_ends_were_rewritten_is_one_sentence(tmp_path: Path) -> None:
    """As a checkout on Windows does to a file that it takes for a text."""
    made.gtsrb(tmp_path)
    photo = tmp_path / "GTSRB/Final_Training/Images/00000/00000_00000.ppm"
    whole = photo.read_bytes()
    head, pixels = whole[:-3000], bytearray(whole[-3000:])
    pixels[1500] = ord("\n")
    photo.write_bytes(head + bytes(pixels).replace(b"\n", b"\r\n"))
    with pytest.raises(BadInput, match=r"00000_00000\.ppm is damaged \(it is \d+ bytes long, and its header says \d+; perhaps"):
        Data.of("gtsrb").splits(tmp_path)
    photo.write_bytes(head + bytes(pixels))
    Data.of("gtsrb").splits(tmp_path)


def raw(kind: bytes, pixels: int, most: bytes = b"255") -> bytes:
    """A netpbm file of 9x7 with so many bytes of pixels."""
    return kind + b"\n# a comment\n9 7\n" + (b"" if kind == b"P4" else most + b"\n") + bytes(pixels)


@pytest.mark.parametrize(
    "whole",
    [
        raw(b"P6", 9 * 7 * 3),
        raw(b"P5", 9 * 7),
        raw(b"P4", 2 * 7),
        raw(b"P6", 9 * 7 * 3, b"100"),
        raw(b"P5", 9 * 7 * 2, b"65535"),
        encoded("BMP"),
        encoded("WEBP"),
    ],
)
def test_a_byte_more_than_the_header_says_is_told(whole: bytes) -> None:
    with opened(whole) as image:
        image.load()
    with (
        pytest.raises(ValueError, match=f"it is {len(whole) + 1} bytes long, and its header says {len(whole)}"),
        opened(whole + b"x"),
    ):
        pass


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_formats_with_an_end_of_their_own_may_be_followed_by_anything(kind: str) -> None:
    with opened(encoded(kind) + b"x") as image:
        image.load()


def test_a_plain_netpbm_has_no_end_to_look_at() -> None:
    with opened(b"P3\n1 1\n255\n1 2 3\n\n\n") as image:
        assert image.getpixel((0, 0)) == (1, 2, 3)


def test_a_header_of_a_huge_image_is_told_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PpmImagePlugin.PpmImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="it has 8500x8500 pixels, more than"), opened(b"P6\n8500 8500\n255\n"):
        pass
