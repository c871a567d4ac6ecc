"""What the readers of images say of data that is missing, cut or damaged: a sentence that names the file or folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import image_miniatures as made
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bdray.data import Data
from bdray.data._images import decode
from bdray.spec import BadInput, Config

# The litter in the miniature is told of: see test_image_folders.py.
pytestmark = pytest.mark.filterwarnings("ignore:image_folder. skipped")

CONFIG: dict[str, Config] = {
    "image_folder": {"name": "image_folder", "path": "pets"},
    **{name: {"name": name} for name in ("cifar10", "cifar100", "gtsrb", "imagenette", "tiny_imagenet")},
}
WRITERS = {name: getattr(made, name) for name in CONFIG}
BATCH = "cifar-10-batches-py/data_batch_3"
TRUTH = "GT-final_test.csv"
TINY = "tiny-imagenet-200"


def refusal(name: str, root: Path) -> str:
    with pytest.raises(BadInput) as caught:
        Data.of(CONFIG[name]).read(root)
    text = str(caught.value)
    assert "\n" not in text
    assert text.count(". ") == 0
    assert not text.endswith(".")
    return text


def remove(name: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])

    return spoil


def empty(name: str) -> Callable[[Path], None]:
    """A file without content, or a folder without files."""

    def spoil(root: Path) -> None:
        if (root / name).is_dir():
            shutil.rmtree(root / name)
            (root / name).mkdir()
        else:
            (root / name).write_bytes(b"")

    return spoil


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        content = (root / name).read_bytes()
        assert old.encode() in content
        (root / name).write_bytes(content.replace(old.encode(), new.encode()))

    return spoil


def store(name: str, content: object) -> Callable[[Path], None]:
    return lambda root: made.write(root / name, content if isinstance(content, bytes) else made.python2(content))


def unlabelled(root: Path) -> None:
    (root / TRUTH).unlink()


def unlabelled_under_the_right_name(root: Path) -> None:
    shutil.copy(root / "GTSRB/Final_Test/Images/GT-final_test.test.csv", root / TRUTH)


def without_any_list(root: Path) -> None:
    (root / TRUTH).unlink()
    (root / "GTSRB/Final_Test/Images/GT-final_test.test.csv").unlink()


IMAGES = [made.picture(n) for n in range(2)]
CASES = {
    "cifar10": [
        (remove("cifar-10-batches-py"), "holds neither cifar-10-batches-py nor cifar10_jpeg.parquet"),
        (remove(BATCH), f"{BATCH} is not there"),
        (empty("cifar-10-batches-py"), "data_batch_1 is not there"),
        (cut(BATCH), f"{BATCH} is damaged"),
        (empty(BATCH), f"{BATCH} is damaged"),
        (store(BATCH, [1]), f"{BATCH} holds a list"),
        (store(BATCH, made.batch(IMAGES, labels=[0, 10])), f"{BATCH} has the label 10 in `labels`, outside 0 to 9"),
        (store(BATCH, made.batch(IMAGES, labels=[0, -1])), f"{BATCH} has the label -1"),
        (store(BATCH, made.batch(IMAGES, labels=[0, "cat"])), f"{BATCH} has the label 'cat'"),
        (store(BATCH, made.batch(IMAGES, labels=[0])), f"{BATCH} has no list `labels` for its 2 images"),
        (store(BATCH, made.batch(IMAGES)), f"{BATCH} has no list `labels`"),
        (store(BATCH, {b"labels": [0]}), f"{BATCH} has no `data`"),
        (store(BATCH, {b"data": np.zeros((2, 3073), np.uint8), b"labels": [0, 1]}), f"{BATCH} has no `data`"),
        (store(BATCH, {b"data": np.zeros((2, 3072), np.int32), b"labels": [0, 1]}), f"{BATCH} has no `data`"),
    ],
    "cifar100": [
        (remove("cifar-100-python"), "cifar-100-python is not there"),
        (remove("cifar-100-python/meta"), "meta is not there"),
        (remove("cifar-100-python/test"), "test is not there"),
        (cut("cifar-100-python/train"), "train is damaged"),
        (cut("cifar-100-python/meta"), "meta is damaged"),
        (store("cifar-100-python/meta", {b"fine_label_names": [b"a"]}), "meta has no `fine_label_names` of 100"),
        (store("cifar-100-python/test", made.batch(IMAGES, fine_labels=[0, 100])), "test has the label 100"),
        (store("cifar-100-python/test", made.batch(IMAGES, coarse_labels=[0, 1])), "test has no list `fine_labels`"),
    ],
    "gtsrb": [
        (remove("GTSRB"), "holds no GTSRB"),
        (remove("GTSRB/Final_Training"), "GTSRB holds neither Final_Training/Images nor Training"),
        (remove("GTSRB/Final_Training/Images/00017"), "00017 is not there"),
        (empty("GTSRB/Final_Training/Images/00017"), "00017 holds no images"),
        (remove("GTSRB/Final_Training/Images/00000/00000_00000.ppm"), "00000 holds no images"),
        (remove("GTSRB/Final_Test"), "Final_Test/Images is not there"),
        (remove("GTSRB/Final_Test/Images/00001.ppm"), f"00001.ppm is listed in {TRUTH} but is not there"),
        (cut("GTSRB/Final_Test/Images/00001.ppm"), "00001.ppm is damaged"),
        (cut("GTSRB/Final_Training/Images/00041/00001_00000.ppm"), "00001_00000.ppm is damaged"),
        (unlabelled, f"GT-final_test.test.csv has no ClassId, as {TRUTH} of GTSRB_Final_Test_GT.zip has"),
        (unlabelled_under_the_right_name, f"{TRUTH} has no column ClassId (Filename; Width;"),
        (replace(TRUTH, "Filename", "File"), f"{TRUTH} has no column Filename"),
        (replace(TRUTH, ";", ","), f"{TRUTH} has no column Filename"),
        (replace(TRUTH, ";42\r", ";43\r"), f"{TRUTH} has the ClassId '43' in line 2, outside 0 to 42"),
        (replace(TRUTH, ";42\r", ";-1\r"), f"{TRUTH} has the ClassId '-1' in line 2"),
        (replace(TRUTH, ";16\r", ";stop\r"), f"{TRUTH} has the ClassId 'stop' in line 3"),
        (replace(TRUTH, ";16\r", "\r"), f"{TRUTH} has the ClassId None in line 3"),
        (empty(TRUTH), f"{TRUTH} has no column Filename (it is empty)"),
        (without_any_list, "holds no GT-final_test.csv of GTSRB_Final_Test_GT.zip"),
        (store(TRUTH, b"Filename;ClassId\r\n"), f"{TRUTH} lists no images"),
        (store(TRUTH, b"Filename;ClassId\r\n\xff\xfe;1\r\n"), f"{TRUTH} is damaged"),
    ],
    "image_folder": [
        (remove("pets"), "pets/train is not there"),
        (remove("pets/train"), "pets/train is not there"),
        (empty("pets/train"), "pets/train holds no class folders"),
        (remove("pets/test"), "pets holds no test or val with class folders"),
        (empty("pets/test"), "pets holds no test or val with class folders"),
        (remove("pets/test/ant"), "pets/test/ant is not there, though"),
        (remove("pets/train/ant"), "pets/train/ant is not there, though"),
        (empty("pets/train/ant"), "pets/train/ant holds no images"),
        (remove("pets/test/ant/g.png"), "pets/test/ant holds no images"),
        (cut("pets/train/Zebra/b.bmp"), "b.bmp is damaged"),
        (cut("pets/train/cat/deep/er/e.png"), "e.png is damaged"),
        (cut("pets/train/cat/d.webp"), "d.webp is damaged"),
        (empty("pets/test/cat/f.png"), "f.png is damaged"),
        (store("pets/test/cat/f.png", b"<html>not found</html>"), "f.png is damaged"),
    ],
    "imagenette": [
        (remove("imagenette2"), "holds none of imagenette2, imagenette2-320"),
        (remove("imagenette2/val"), "imagenette2/val/n01440764 is not there"),
        (remove("imagenette2/train/n03394916"), "train/n03394916 is not there"),
        (empty("imagenette2/val/n03888257"), "val/n03888257 holds no images"),
        (cut("imagenette2/val/n03888257/n03888257_9.JPEG"), "n03888257_9.JPEG is damaged"),
    ],
    "tiny_imagenet": [
        (remove(TINY), f"{TINY} is not there"),
        (remove(f"{TINY}/wnids.txt"), "wnids.txt is not there"),
        (empty(f"{TINY}/wnids.txt"), "wnids.txt is empty"),
        (remove(f"{TINY}/words.txt"), "words.txt is not there"),
        (replace(f"{TINY}/words.txt", "n02\tbee\n", ""), "words.txt has no line for n02"),
        (store(f"{TINY}/words.txt", b"n01\t\xff\xfe\n"), "words.txt is damaged"),
        (remove(f"{TINY}/train/n02"), "train/n02 is not there"),
        (empty(f"{TINY}/train/n02/images"), "train/n02 holds no images"),
        (cut(f"{TINY}/train/n03/images/n03_1.JPEG"), "n03_1.JPEG is damaged"),
        (remove(f"{TINY}/val"), "val_annotations.txt is not there"),
        (empty(f"{TINY}/val/val_annotations.txt"), "val_annotations.txt is empty"),
        (
            replace(f"{TINY}/val/val_annotations.txt", "n02", "n09"),
            "val_annotations.txt gives val_2.JPEG the class 'n09'",
        ),
        (replace(f"{TINY}/val/val_annotations.txt", "\tn02", " n02"), "val_annotations.txt gives val_2.JPEG n02"),
        (remove(f"{TINY}/val/images/val_1.JPEG"), "val_1.JPEG is listed in val_annotations.txt but is not there"),
        (remove(f"{TINY}/val/images"), "val_0.JPEG is listed in val_annotations.txt but is not there"),
        (cut(f"{TINY}/val/images/val_1.JPEG"), "val_1.JPEG is damaged"),
    ],
}


@pytest.mark.parametrize(
    ("name", "spoil", "said"), [pytest.param(n, *case, id=f"{n}-{case[1]}") for n in CASES for case in CASES[n]]
)
def test_says_what_is_wrong(tmp_path: Path, name: str, spoil: Callable[[Path], None], said: str) -> None:
    WRITERS[name](tmp_path)
    spoil(tmp_path)
    text = refusal(name, tmp_path)
    assert said in text
    assert str(tmp_path) in text


@pytest.mark.parametrize("name", CONFIG)
def test_names_the_data_folder_that_is_not_there(tmp_path: Path, name: str) -> None:
    text = refusal(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in text
    assert Data.member(name).layout in text


def test_names_where_it_is_published(tmp_path: Path) -> None:
    for name in CONFIG:
        if name != "image_folder":
            assert Data.member(name).home in refusal(name, tmp_path)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": None}, "cifar10_jpeg.parquet is damaged or has no columns image, label, split"),
        ({"label": None}, "cifar10_jpeg.parquet is damaged or has no columns image, label, split"),
        ({"label": pa.array([0, 10, 1])}, "cifar10_jpeg.parquet has labels outside 0 to 9"),
        ({"label": pa.array([0, -1, 1])}, "cifar10_jpeg.parquet has labels outside 0 to 9"),
        ({"label": pa.array([0, None, 1])}, "cifar10_jpeg.parquet holds binary and int64"),
        ({"label": pa.array([0.0, 1.0, 2.0])}, "cifar10_jpeg.parquet holds binary and double"),
        ({"image": pa.array(["a", "b", "c"])}, "cifar10_jpeg.parquet holds string and int64"),
        ({"image": pa.array([b"a", b"b", b"c"])}, "0 of split train in"),
        ({"split": pa.array(["train"] * 3)}, "cifar10_jpeg.parquet has no rows with split 'test'"),
    ],
)
def test_cifar10_parquet(tmp_path: Path, columns: dict[str, pa.Array | None], said: str) -> None:
    image = made.encode(made.picture(0), "JPEG")
    table = {
        "image": pa.array([image] * 3),
        "label": pa.array([0, 1, 2]),
        "split": pa.array(["train", "train", "test"]),
    }
    table = {name: column for name, column in {**table, **columns}.items() if column is not None}
    pq.write_table(pa.table(table), tmp_path / "cifar10_jpeg.parquet")
    assert said in refusal("cifar10", tmp_path)


def test_cifar10_parquet_cut(tmp_path: Path) -> None:
    made.cifar10_parquet(tmp_path)
    cut("cifar10_jpeg.parquet")(tmp_path)
    assert "cifar10_jpeg.parquet is damaged" in refusal("cifar10", tmp_path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PPM", "BMP", "WEBP"])
def test_decode_names_a_cut_image(tmp_path: Path, kind: str) -> None:
    content = made.encode(made.picture(0), kind)
    for end in range(0, len(content) - 30, 20):
        (tmp_path / "cut").write_bytes(content[:end])
        with pytest.raises(BadInput, match="cut is damaged"):
            decode([tmp_path / "cut"], None)


def test_decode_names_the_image_of_another_size() -> None:
    encoded = [made.encode(made.picture(0, size), "PPM") for size in (8, 8, 9)]
    with pytest.raises(BadInput, match="image c is 9x9, expected 8x8"):
        decode(encoded, None, ["a", "b", "c"])
    with pytest.raises(BadInput, match="image number 2 is 9x9"):
        decode(encoded, None)


def test_decode_refuses_what_pillow_would_clip_to_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 1000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadInput, match=r"deep.png .*I;16, expected 8 bits"):
        decode([tmp_path / "deep.png"], None)
