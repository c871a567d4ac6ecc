"""The reader of Pascal VOC's layout, on a miniature with the format's traps, and what it says of bad files."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bdray.boxes import objects
from bdray.data import Data
from bdray.spec import BadInput, Config

HOME = "VOCdevkit/VOC2007"


def thing(name: str, box: tuple[Any, Any, Any, Any], more: str = "<difficult>0</difficult>") -> str:
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


PART = f"<part>{thing('hand', (2, 2, 3, 3)).removeprefix('<object>').removesuffix('</object>')}</part>"
ANNOTATIONS = {
    # the whole image, and its last pixel; decimals as since 2011
    "000001": [thing("dog", (1, 1, 20, 10)), thing("cat", (20, 10, 20, 10)), thing("person", ("1.0", "2.5", "4.5", "5"))],
    # difficult; a person's hand is no object; whether it is difficult is not said
    "000002": [thing("car", (3, 4, 10, 8), "<difficult>1</difficult>"), thing("person", (1, 1, 8, 9), PART)],
    "000003": [],
    "2008_000004": [thing("dog", (5, 5, 6, 6))],
}


def voc(root: Path, **changes: str) -> Path:
    """Images of 20x10 pixels, of which 000001 and 000003 are to train on."""
    home = root / HOME
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (home / folder).mkdir(parents=True)
    for number, (name, things) in enumerate(ANNOTATIONS.items()):
        pixels = np.full((10, 20, 3), 40 * number, np.uint8)
        pixels[0, 0] = 255
        Image.fromarray(pixels).save(home / f"JPEGImages/{name}.{'png' if number == 0 else 'jpg'}", quality=100, subsampling=0)
        text = f"<annotation><size><width>0</width></size>{''.join(things)}</annotation>"
        (home / f"Annotations/{name}.xml").write_text(changes.get(f"x{name}", text))
    (home / "ImageSets/Main/trainval.txt").write_bytes(b"000001\r\n000003\r\n")
    (home / "ImageSets/Main/test.txt").write_text("000002\n2008_000004  \n\n")
    (home / "ImageSets/Main/dog_test.txt").write_text("000002 -1\n2008_000004  1\n")
    return root


def refusal(config: Config | str, root: Path) -> str:
    with pytest.raises(BadInput) as caught:
        Data.of(config).read(root)
    text = str(caught.value)
    assert "\n" not in text
    assert text.count(". ") == 0
    return text


def test_voc(tmp_path: Path) -> None:
    train, test, classes, _ = Data.of({"name": "voc", "size": 20}).read(voc(tmp_path))
    assert train.inputs.shape == (2, 3, 20, 20)
    assert train.inputs.dtype == torch.uint8
    assert train.labels is None
    assert len(classes) == 20
    first, empty = objects(train.targets)
    # 20x10 pixels became 20x20: from 0, ends not in it, twice as high
    assert first.boxes.tolist() == [[0, 0, 20, 20], [19, 18, 20, 20], [0, 3, 4.5, 10]]
    assert [classes[label] for label in first.labels] == ["dog", "cat", "person"]
    assert not first.rest.any()
    assert empty.boxes.shape == (0, 4)
    found = objects(test.targets)
    assert [classes[label] for each in found for label in each.labels] == ["car", "person", "dog"]
    assert [each.rest.tolist() for each in found] == [[True, False], [False]]


def test_boxes_and_pixels_are_scaled_alike(tmp_path: Path) -> None:
    """The first pixel alone is white: the box around it stays around it."""
    root = voc(tmp_path, x000001=f"<annotation>{thing('dog', (1, 1, 1, 1))}</annotation>")
    train = Data.of({"name": "voc", "size": 40}).read(root).train
    x1, y1, x2, y2 = objects(train.targets)[0].boxes[0].tolist()
    assert (x1, y1, x2, y2) == (0, 0, 2, 4)
    bright = (train.inputs[0].float().mean(0) > 127).nonzero()
    assert bright[:, 0].max() < y2
    assert bright[:, 1].max() < x2


def test_a_list_of_one_class_can_be_tested_on(tmp_path: Path) -> None:
    assert len(Data.of({"name": "voc", "size": 8, "test": "dog_test"}).read(voc(tmp_path)).test) == 2


def one(*box: Any, name: str = "dog") -> str:
    return f"<annotation>{thing(name, box)}</annotation>"


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (one(1, 1, 2, 2, name="wolf"), "has an object of the class 'wolf', expected one of aeroplane, bicycle"),
        (one(0, 1, 2, 2), "has the box (0, 1, 2, 2) outside of its image, whose pixels are 1 to 20 and 1 to 10; mend the box"),
        (one(1, 1, 21, 2), "has the box (1, 1, 21, 2) outside of its image"),
        (one(1, 1, 2, 11), "has the box (1, 1, 2, 11) outside of its image"),
        (one(5, 1, 4, 2), "has the box (5, 1, 4, 2) outside of its image"),
        (one("nan", 1, 4, 2), "has the box (nan, 1, 4, 2) outside of its image"),
        (one("", 1, 4, 2), "has the box ['', '1', '4', '2'], expected four numbers"),
        ("<annotation><object><name>dog</name></object></annotation>", "has the box [None, None, None, None], expected"),
        ("<annotation><object>", "is damaged (no element found"),
        ("", "is damaged (no element found"),
    ],
    ids=["class", "left", "right", "below", "turned", "nan", "no number", "no box", "cut", "empty"],
)
def test_a_bad_annotation_is_a_sentence_that_names_the_file(spoilt: str, told: str, tmp_path: Path) -> None:
    text = refusal({"name": "voc", "size": 8}, voc(tmp_path, x000001=spoilt))
    assert f"{tmp_path / HOME / 'Annotations/000001.xml'} {told}" in text


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("Annotations/000002.xml", "is not there, though"),
        ("JPEGImages/000002.jpg", "is not there, though"),
        ("ImageSets/Main/test.txt", "is not there; expected VOCdevkit/VOC2007 with ImageSets/Main"),
    ],
)
def test_what_is_missing_is_a_sentence_that_names_it(missing: str, told: str, tmp_path: Path) -> None:
    path = voc(tmp_path) / HOME / missing
    path.unlink()
    assert f"{path} {told}" in refusal({"name": "voc", "size": 8}, tmp_path)


def test_a_damaged_image_is_a_sentence_that_names_it(tmp_path: Path) -> None:
    path = voc(tmp_path) / HOME / "JPEGImages/000002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    assert f"the image {path} is damaged" in refusal({"name": "voc", "size": 8}, tmp_path)


def test_another_year_is_another_folder(tmp_path: Path) -> None:
    assert f"{tmp_path / 'VOCdevkit/VOC2012'} is not there" in refusal({"name": "voc", "year": 2012}, voc(tmp_path))


DIGEST = "4b93783f12a4fb1a"
"""SHA-256 of pixels and annotations: another generator has another number in `folder_name`."""


def test_drawn_shapes_are_the_same_on_every_machine_and_written_once(tmp_path: Path) -> None:
    data = Data.of({"name": "drawn_shapes", "count": 12, "tests": 4})
    train, test, classes, _ = data.read(tmp_path)
    assert classes == ("square", "disc", "triangle")
    assert train.inputs.shape == (12, 3, 96, 96)
    assert test.inputs.shape == (4, 3, 96, 96)
    folder = tmp_path / data.folder_name()
    xml = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.xml")))
    found = hashlib.sha256(train.inputs.numpy().tobytes() + test.inputs.numpy().tobytes() + xml)
    assert found.hexdigest()[:16] == DIGEST
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = data.read(tmp_path)
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert torch.equal(again.train.inputs, train.inputs)
    assert again.train.targets.tolist() == train.targets.tolist()
    (folder / HOME / "Annotations/000003.xml").unlink()
    text = refusal(data.config(), tmp_path)
    assert "000003.xml is not there, though" in text
    assert f"remove the folder {folder}, and it is made again" in text


def test_drawn_boxes_are_tight_and_have_the_traps_of_the_real_ones(tmp_path: Path) -> None:
    train = Data.of({"name": "drawn_shapes", "count": 60, "tests": 1}).read(tmp_path).train
    found = objects(train.targets)
    assert [at for at, each in enumerate(found) if not len(each.labels)] == [49]  # every fiftieth shows nothing
    assert any(each.rest.any() for each in found)
    assert {label for each in found for label in each.labels.tolist()} == {0, 1, 2}
    for image, each in zip(train.inputs.int(), found, strict=True):
        ground = image[:, :1, 0].float() if len(each.labels) else None
        for x1, y1, x2, y2 in each.boxes.int().tolist():
            assert ground is not None
            assert 20 <= x2 - x1 == y2 - y1 <= 40
            window = image[:, y1:y2, x1:x2].float()
            # the middle is the shape's, and so is the middle of the lower side of each of the three
            middle = window[:, (y2 - y1) // 2, (x2 - x1) // 2]
            below = window[:, -1, (x2 - x1) // 2]
            assert (middle - below).abs().max() <= 16


@pytest.mark.real
def test_bccd_as_it_is() -> None:
    root = Path(os.environ.get("BDRAY_DATA", ""))
    if not (root / "detection/BCCD").is_dir():
        pytest.skip("BDRAY_DATA names no folder with detection/BCCD")
    config = {"name": "voc", "path": "detection/BCCD", "classes": ["RBC", "WBC", "Platelets"], "size": 96}
    train, test, classes, _ = Data.of(config).read(root)
    assert (len(train), len(test)) == (292, 72)
    found = [*objects(train.targets), *objects(test.targets)]
    counts = torch.cat([each.labels for each in found]).bincount().tolist()
    assert dict(zip(classes, counts, strict=True)) == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    boxes = torch.cat([each.boxes for each in found])
    assert (boxes[:, 2:] > boxes[:, :2]).all()  # two are a single pixel, and no detector takes an empty box
    assert boxes.min() >= 0
    assert boxes.max() <= 96
