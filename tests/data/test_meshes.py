"""The reader of ModelNet: OFF files as they are published and as they are not, folders, points on the surface; real meshes."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from bdray.data import Data, Published
from bdray.data._points import Points, read_off
from bdray.samples import dense, equal
from bdray.spec import BadInput

CORNERS = "0 0 0\n2 0 0\n0 2 0\n0 0 2\n"
FACES = "3 0 1 2\n3 0 1 3\n"
PYRAMID = f"OFF\n4 2 0\n{CORNERS}{FACES}"


def off(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        PYRAMID,
        PYRAMID.replace("OFF\n", "OFF"),  # glued, as many of ModelNet40's
        PYRAMID.replace("OFF\n", "OFF "),
        PYRAMID.replace("4 2 0\n", "4 2\n"),
        PYRAMID.replace("\n", "\r\n"),
        PYRAMID.replace("OFF\n", "# made by hånd\nOFF # yes\n\n"),
        PYRAMID.replace("2 0 0\n", "2e0 -0.0 +0\n\n# between\n").replace("3 0 1 3\n", "3  0\t1 3 255 0 0\n"),
        PYRAMID + "\n# the end",
    ],
)
def test_off_as_it_is_and_as_it_is_not(tmp_path: Path, text: str) -> None:
    vertices, triangles = read_off(off(tmp_path / "a.off", text))
    assert vertices.tolist() == [[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]]
    assert triangles.tolist() == [[0, 1, 2], [0, 1, 3]]


def test_polygons_become_triangles(tmp_path: Path) -> None:
    text = "OFF\n5 3 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n0 0 1\n4 0 1 2 3\n3 0 1 4\n5 0 1 2 3 4 0.5 0.5 0.5\n"
    _, triangles = read_off(off(tmp_path / "a.off", text))
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 4], [0, 1, 2], [0, 2, 3], [0, 3, 4]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
        ("ply\nformat ascii 1.0\n", "it does not begin with OFF"),
        ("\x00\x89", "it does not begin with OFF"),
        ("ÖFF", "it does not begin with OFF"),
        ("OFF\n", "it gives '' for the numbers of vertices and faces"),
        ("OFF\nmany few 0\n", "it gives 'many few 0' for the numbers"),
        ("OFF\n-4 2 0\n" + CORNERS + FACES, "it gives '-4 2 0' for the numbers"),
        ("OFF\n4 0 0\n" + CORNERS, "it has 4 vertices and 0 faces"),
        ("OFF\n0 0 0\n", "it has 0 vertices and 0 faces"),
        (PYRAMID[:-10], "it ends after 5 of 6 lines of vertices and faces"),
        ("OFF\n4 2 0\n" + CORNERS, "it ends after 4 of 6 lines"),
        (PYRAMID.replace("2 0 0", "nan 0 0"), "vertex 1 is 'nan 0 0', which is not finite"),
        (PYRAMID.replace("0 2 0", "0 inf 0"), "vertex 2 is '0 inf 0', which is not finite"),
        (PYRAMID.replace("0 2 0", "0 two 0"), "it has '0 two 0' for a vertex"),
        (PYRAMID.replace("0 2 0", "0 2"), "it has '0 2' for a vertex"),
        ("OFF\n2 1 0\n0 0\n1 1\n3 0 1 1\n", "a vertex has fewer than 3 numbers"),
        (PYRAMID.replace("3 0 1 3", "3 0 1 4"), "a face names a vertex outside 0 to 3"),
        (PYRAMID.replace("3 0 1 3", "3 0 1 -1"), "a face names a vertex outside 0 to 3"),
        (PYRAMID.replace("3 0 1 3", "3 0 1"), "a face is not its number of corners"),
        (PYRAMID.replace("3 0 1 3", "4 0 1 3"), "a face is not its number of corners"),
        (PYRAMID.replace("3 0 1 3", "3 0 1 x"), "a face is not its number of corners"),
        (PYRAMID.replace(FACES, "2 0 1\n2 1 2\n"), "none of its faces has three corners"),
        (PYRAMID.replace(FACES, "3 0 1 1\n3 2 2 2\n"), "none of its faces has an area"),
        (PYRAMID.replace(CORNERS, "5 5 5\n" * 4), "all its vertices are one point"),
    ],
)
def test_a_bad_mesh_is_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    modelnet(tmp_path)
    off(tmp_path / "ModelNet40/chair/train/chair_0002.off", text)
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert f"chair_0002.off is damaged ({told}" in str(caught.value)
    assert str(caught.value).endswith("; fetch the data set again, or remove it")


def modelnet(root: Path, folder: str = "ModelNet40") -> None:
    """Two classes of two meshes to train and one to test on, among what is not of the data set."""
    base = root / folder
    for name, stretch in (("night_stand", 3), ("chair", 1)):
        for part, numbers in (("train", (1, 2)), ("test", (3,))):
            for number in numbers:
                text = PYRAMID.replace("0 0 2", f"0 {number} {2 * stretch}")
                off(base / name / part / f"{name}_{number:04d}.{'OFF' if number == 2 else 'off'}", text)
    off(base / "__MACOSX/train/._chair_0001.off", "junk")
    off(base / "chair/train/._chair_0001.off", "junk")
    off(base / "chair/train/.DS_Store", "junk")
    off(base / ".cache/train/a.off", "junk")
    off(base / "README.txt", "junk")


def read(root: Path, **fields: object) -> Published:
    return Data.of({"name": "modelnet", "points": 64, **fields}).read(root)


def test_modelnet(tmp_path: Path) -> None:
    modelnet(tmp_path)
    train, test, classes, units = read(tmp_path)
    assert list(classes) == ["chair", "night_stand"]
    assert units is None
    assert train.targets.tolist() == [0, 0, 1, 1]
    assert test.targets.tolist() == [0, 1]
    for part in (train, test):
        assert part.inputs.dtype == torch.float32
        assert part.inputs.shape[1:] == (64, 3)
        clouds = dense(part.inputs)
        assert clouds.mean(1).abs().max() < 1e-6
        assert torch.allclose(clouds.norm(dim=2).amax(1), torch.ones(len(part)))
    assert len(torch.unique(torch.cat([dense(train.inputs), dense(test.inputs)]).flatten(1), dim=0)) == 6
    modelnet(tmp_path, "mine")
    assert equal(read(tmp_path, path="mine").train.inputs, train.inputs).all()


def test_the_points_of_a_mesh_are_its_own(tmp_path: Path) -> None:
    """They do not depend on what else is there, and are the same each time."""
    modelnet(tmp_path)
    before = dense(read(tmp_path).train.inputs)
    off(tmp_path / "ModelNet40/chair/train/chair_0000.off", PYRAMID)
    after = dense(read(tmp_path).train.inputs)
    assert torch.equal(after[1:], before)
    assert not torch.equal(after[0], after[1])


def test_points_are_uniform_over_the_surface(tmp_path: Path) -> None:
    """Two triangles far apart, in one plane, of which the right one has three times the area of the left one."""
    text = "OFF\n6 2 0\n0 0 7\n1 0 7\n0 1 7\n100 0 7\n103 0 7\n100 1 7\n3 0 1 2\n3 3 4 5\n"
    data = Data.of({"name": "modelnet", "points": 4000})
    assert isinstance(data, Points)
    cloud = dense(data.clouds([off(tmp_path / "a.off", text)], tmp_path))[0]
    assert cloud[:, 2].abs().max() < 1e-5  # in the plane
    right = (cloud[:, 0] > 0).float().mean()
    assert abs(float(right) - 0.75) < 0.03


def test_clouds_that_no_memory_holds(tmp_path: Path) -> None:
    modelnet(tmp_path)
    with pytest.raises(BadInput, match=r"modelnet\.points: got 10+, and 4 clouds of so many take .* GiB, more than the"):
        read(tmp_path, points=10**12, cache=0)
    with pytest.raises(BadInput, match=r"modelnet\.points: got 1, expected a whole number from 2|expected .*at least 2"):
        read(tmp_path, points=1)
    assert dense(read(tmp_path, points=2).train.inputs).isfinite().all()


@pytest.mark.parametrize(
    ("mar", "told"),
    [
        (lambda base: base.rename(base.with_name("Other")), r"ModelNet40 is not there; expected PATH/<class>/\{train,test\}"),
        (
            lambda base: [(base / f"{n}/train").rename(base / f"{n}/t") for n in ("chair", "night_stand")],
            "holds no folders of cl",
        ),
        (lambda base: (base / "chair/test/chair_0003.off").unlink(), r"chair/test holds no \.off files"),
        (lambda base: (base / "chair/test").rename(base / "chair/val"), r"chair/test is not there"),
    ],
)
def test_bad_folders_are_one_sentence(tmp_path: Path, mar: Callable[[Path], object], told: str) -> None:
    modelnet(tmp_path)
    mar(tmp_path / "ModelNet40")
    with pytest.raises(BadInput, match=f"{told}.*modelnet.cs.princeton.edu$"):
        read(tmp_path)


def hdf5(base: Path, points: int = 16) -> dict[str, np.ndarray]:
    """Two training files and one to test on, of three classes; the clouds by the name of their file."""
    base.mkdir()
    (base / "shape_names.txt").write_text("airplane\nbathtub\nnight_stand\n")
    (base / "train_files.txt").write_text("data/modelnet40_ply_hdf5_2048/ply_data_train0.h5\ndata/x/ply_data_train1.h5\n")
    (base / "test_files.txt").write_text("data/modelnet40_ply_hdf5_2048/ply_data_test0.h5\n")
    clouds = {}
    for number, name in enumerate(("ply_data_train0.h5", "ply_data_train1.h5", "ply_data_test0.h5")):
        clouds[name] = np.random.default_rng(number).normal(size=(3, points, 3)).astype(np.float32)
        with h5py.File(base / name, "w") as file:
            file["data"], file["label"] = clouds[name], np.array([[2], [0], [number]], dtype=np.uint8)
    return clouds


def test_clouds_in_hdf5(tmp_path: Path) -> None:
    clouds = hdf5(tmp_path / "clouds")
    train, test, classes, _ = read(tmp_path, path="clouds", points=8)
    assert list(classes) == ["airplane", "bathtub", "night_stand"]
    assert train.targets.tolist() == [2, 0, 0, 2, 0, 1]
    assert test.targets.tolist() == [2, 0, 2]
    raw = np.concatenate([clouds["ply_data_train0.h5"], clouds["ply_data_train1.h5"]])[:, :8]
    centred = raw - raw.mean(1, keepdims=True)
    scale = np.linalg.norm(centred, axis=2).max(1)
    assert np.allclose(dense(train.inputs).numpy(), centred / scale[:, None, None], atol=1e-6)
    assert test.inputs.dtype == torch.float32


def spoilt(name: str, value: np.ndarray | None) -> Callable[[Path], None]:
    def mar(base: Path) -> None:
        with h5py.File(base / "ply_data_train1.h5", "a") as file:
            del file[name]
            if value is not None:
                file[name] = value

    return mar


@pytest.mark.parametrize(
    ("mar", "told"),
    [
        (lambda base: (base / "test_files.txt").unlink(), r"test_files\.txt is not there; expected PATH/<class>"),
        (lambda base: (base / "test_files.txt").write_text("\n"), r"test_files\.txt is empty"),
        (lambda base: (base / "ply_data_train1.h5").unlink(), r"ply_data_train1\.h5 is not there"),
        (
            lambda base: (base / "ply_data_train1.h5").write_bytes(b"x" * 99),
            r"ply_data_train1\.h5 is damaged \(.*\); fetch the data",
        ),
        (spoilt("label", None), r"ply_data_train1\.h5 is damaged"),
        (spoilt("label", np.array([[0], [1], [3]])), r"is damaged \(a label is outside 0 to 2\)"),
        (spoilt("label", np.array([[0], [1]])), r"is damaged \(its data are \[3, 16, 3\] and its labels \[2\]\)"),
        (spoilt("data", np.full((3, 16, 3), np.nan)), r"is damaged \(cloud 0 is not finite\)"),
        (spoilt("data", np.zeros((3, 7, 3))), r"modelnet\.points: got 8, but the clouds of .*train1\.h5 have 7; lower it"),
    ],
)
def test_bad_hdf5_is_one_sentence(tmp_path: Path, mar: Callable[[Path], None], told: str) -> None:
    hdf5(tmp_path / "clouds")
    mar(tmp_path / "clouds")
    with pytest.raises(BadInput, match=told):
        read(tmp_path, path="clouds", points=8)


def shared(below: str) -> Path:
    root = Path(os.environ.get("BDRAY_DATA", "")) / below
    if "BDRAY_DATA" not in os.environ or not root.is_dir():
        pytest.skip(f"BDRAY_DATA names no folder with {below}")
    return root


@pytest.mark.real
def test_real_meshes_of_the_princeton_shape_benchmark() -> None:
    found = read(shared("pointcloud"), path="psb_modelnet_layout", points=128)
    assert (len(found.train), len(found.test), len(found.classes)) == (319, 302, 8)
    assert dense(found.train.inputs).isfinite().all()
    assert dense(found.test.inputs).isfinite().all()


@pytest.mark.real
def test_real_meshes_of_modelnet10() -> None:
    folder = shared("pointcloud/ModelNet10/bathtub/train")
    data = Data.of({"name": "modelnet", "points": 128})
    assert isinstance(data, Points)
    clouds = dense(data.clouds(sorted(folder.glob("*.off")), folder))
    assert clouds.shape == (5, 128, 3)
    assert np.isfinite(clouds.numpy()).all()
