"""Readers of files that are clouds: modelnet40_normal_resampled, ShapeNet part, and folders of one's own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bdray.data import Data, Published
from bdray.packages import need
from bdray.samples import Samples, dense
from bdray.spec import BadInput

NAMES = ("airplane", "flower_pot", "night_stand")
"""Two with an underscore, as ModelNet has them."""


def values(part: Samples) -> np.ndarray:
    found = dense(part.inputs)
    assert isinstance(found, torch.Tensor)
    return found.numpy()


def cloud(seed: int, count: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 6)).round(6)


def in_sphere(points: np.ndarray) -> np.ndarray:
    """Plainly."""
    moved = points - points.mean(0)
    return np.array([point / max(np.linalg.norm(other) for other in moved) for point in moved])


def read(name: str, root: Path, **fields: object) -> Published:
    return Data.of({"name": name, "points": 8, "cache": 0.0, **fields}).read(root)


# modelnet40_normal_resampled


def resampled(root: Path) -> dict[str, np.ndarray]:
    """A miniature of it, in its own layout, CRLF in one list; what each file holds."""
    base = root / "modelnet40_normal_resampled"
    base.mkdir()
    (base / "modelnet40_shape_names.txt").write_text("\n".join(NAMES) + "\n")
    (base / "modelnet10_shape_names.txt").write_text("night_stand\n")
    parts = {"train": range(1, 4), "test": range(4, 6)}
    held: dict[str, np.ndarray] = {}
    for part, numbers in parts.items():
        ids = [f"{name}_{number:04d}" for name in NAMES for number in numbers]
        (base / f"modelnet40_{part}.txt").write_text("\r\n".join(ids) + "\r\n", newline="")
        (base / f"modelnet10_{part}.txt").write_text("\n".join(one for one in ids if one.startswith("night")))
        for one in ids:
            held[one] = cloud(len(held))
            folder = base / one.rpartition("_")[0]
            folder.mkdir(exist_ok=True)
            lines = [",".join(f"{value:.6f}" for value in row) for row in held[one]]
            (folder / f"{one}.txt").write_text("\n".join(lines) + "\n")
    return held


def test_the_first_points_without_their_normals(tmp_path: Path) -> None:
    held = resampled(tmp_path)
    published = read("modelnet_resampled", tmp_path)
    assert list(published.classes) == list(NAMES)
    assert published.train.targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert published.test.targets.tolist() == [0, 0, 1, 1, 2, 2]
    ids = [f"{name}_{number:04d}" for name in NAMES for number in (1, 2, 3)]
    for found, one in zip(values(published.train), ids, strict=True):
        assert found.dtype == np.float32
        assert np.allclose(found, in_sphere(held[one][:8, :3]), atol=1e-6)


def test_modelnet10_has_lists_of_its_own(tmp_path: Path) -> None:
    resampled(tmp_path)
    published = read("modelnet_resampled", tmp_path, classes=10)
    assert list(published.classes) == ["night_stand"]
    assert (len(published.train), len(published.test)) == (3, 2)


def test_farthest_and_random_points(tmp_path: Path) -> None:
    held = resampled(tmp_path)
    points = held["airplane_0001"][:, :3]
    chosen = [0]
    while len(chosen) < 8:
        chosen.append(int(np.argmax([min(np.linalg.norm(point - points[at]) for at in chosen) for point in points])))
    found = values(read("modelnet_resampled", tmp_path, sampling="farthest").train)[0]
    assert np.allclose(found, in_sphere(points[chosen]), atol=1e-6)
    random, again = (values(read("modelnet_resampled", tmp_path, sampling="random").train) for _ in range(2))
    assert np.array_equal(random, again)
    assert not np.allclose(random[0], in_sphere(points[:8]), atol=1e-3)
    every = read("modelnet_resampled", tmp_path, sampling="random", points=40)
    assert np.allclose(np.sort(values(every.train)[0], axis=0), np.sort(in_sphere(points), axis=0), atol=1e-6)


def test_from_the_cache_they_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    resampled(tmp_path)
    for sampling in ("first", "farthest"):
        plain = values(read("modelnet_resampled", tmp_path, sampling=sampling).train)
        for _ in range(2):
            assert np.array_equal(values(read("modelnet_resampled", tmp_path, sampling=sampling, cache=1.0).train), plain)


def spoil(change: Callable[[str], str], name: str = "airplane/airplane_0002.txt") -> Callable[[Path], object]:
    return lambda base: (base / name).write_text(change((base / name).read_text()))


@pytest.mark.parametrize(
    ("mar", "told"),
    [
        (lambda base: (base / "modelnet40_train.txt").unlink(), r"modelnet40_train\.txt is not there; expected PATH/<class>"),
        (lambda base: (base / "modelnet40_test.txt").write_text("\n"), r"modelnet40_test\.txt is empty"),
        (lambda base: (base / "night_stand/night_stand_0002.txt").unlink(), r"night_stand_0002\.txt is not there"),
        (spoil(lambda text: "sofa_0001\n" + text, "modelnet40_train.txt"), "lists 'sofa_0001', which is of no class"),
        (spoil(lambda text: "\n".join(text.split("\n")[:7])), "points: got 8, but the cloud .*_0002.txt has 7; lower it"),
        (spoil(lambda text: ""), "points: got 8, but the cloud .*_0002.txt has 0; lower it"),
        (spoil(lambda text: text.replace(",", " ", 1)), "damaged .line 1 has 5 numbers with commas between them, expected 6"),
        (spoil(lambda text: "x" + text), "damaged .a value in it is no number"),
        (spoil(lambda text: "nan" + text[text.index(",") :]), "damaged .point 0 is not finite"),
        (spoil(lambda text: "1,2,3,0,0,1\n" * 40), "damaged .all its points are one"),
    ],
)
def test_a_bad_one_is_one_sentence(tmp_path: Path, mar: Callable[[Path], object], told: str) -> None:
    resampled(tmp_path)
    mar(tmp_path / "modelnet40_normal_resampled")
    with pytest.raises(BadInput, match=told) as caught:
        read("modelnet_resampled", tmp_path)
    assert "\n" not in str(caught.value)


# ShapeNet part

KINDS = {"Lamp": "03636649", "Airplane": "02691156"}
"""In the order of the file, which is not that of the names."""


def shapenet(root: Path) -> dict[str, np.ndarray]:
    """A miniature of it, in its own layout; what each file holds. Clouds have different numbers of points."""
    base = root / "shapenetcore_partanno_segmentation_benchmark_v0_normal"
    (base / "train_test_split").mkdir(parents=True)
    (base / "synsetoffset2category.txt").write_text("".join(f"{name}\t{number}\n" for name, number in KINDS.items()))
    held: dict[str, np.ndarray] = {}
    for part, names in (("train", ("1a0", "9c3")), ("val", ("b77",)), ("test", ("ff2",))):
        listed = [f"shape_data/{number}/{number}-{name}" for name in names for number in reversed(KINDS.values())]
        (base / "train_test_split" / f"shuffled_{part}_file_list.json").write_text(json.dumps(listed))
        for one in listed:
            number, name = one.split("/")[1:]
            held[name] = cloud(100 + len(held), 20 + 3 * len(held))
            (base / number).mkdir(exist_ok=True)
            lines = [" ".join(f"{value:.6f}" for value in row) + " 12.000000" for row in held[name]]
            (base / number / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return held


def test_shapenet_in_the_order_of_its_lists(tmp_path: Path) -> None:
    held = shapenet(tmp_path)
    published = read("shapenet_part", tmp_path, sampling="first")
    assert list(published.classes) == ["Lamp", "Airplane"]
    assert published.train.targets.tolist() == [1, 0, 1, 0, 1, 0]  # the validation ones last
    assert published.test.targets.tolist() == [1, 0]
    names = [f"{number}-{name}" for name in ("1a0", "9c3", "b77") for number in ("02691156", "03636649")]
    for found, name in zip(values(published.train), names, strict=True):
        assert np.allclose(found, in_sphere(held[name][:8, :3]), atol=1e-6)
    far = values(read("shapenet_part", tmp_path).train)
    assert not np.allclose(far, values(published.train), atol=1e-3)


def relisted(value: object) -> Callable[[Path], object]:
    return lambda base: (base / "train_test_split" / "shuffled_val_file_list.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("mar", "told"),
    [
        (lambda base: (base / "synsetoffset2category.txt").unlink(), r"synsetoffset2category\.txt is not there"),
        (spoil(lambda text: "Lamp", "synsetoffset2category.txt"), "is not a name and a number in each line"),
        (lambda base: (base / "train_test_split/shuffled_val_file_list.json").unlink(), r"val_file_list\.json is not there"),
        (spoil(lambda text: "{", "train_test_split/shuffled_val_file_list.json"), r"val_file_list\.json is no JSON"),
        (relisted({"a": 1}), "is no list of texts"),
        (relisted(["shape_data/00000000/x"]), "lists 'shape_data/00000000/x', which is in no folder of synset"),
        (relisted(["shape_data/03636649/x"]), r"03636649.x\.txt is not there"),
        (
            spoil(lambda text: text.replace(" ", "", 1), "03636649/03636649-b77.txt"),
            "damaged .line 1 has 6 numbers, expected 7",
        ),
        (spoil(lambda text: "x" + text, "03636649/03636649-b77.txt"), "damaged .a value in it is no number"),
        (spoil(lambda text: "", "03636649/03636649-b77.txt"), "points: got 8, but the cloud .*-b77.txt has 0; lower it"),
    ],
)
def test_a_bad_shapenet_is_one_sentence(tmp_path: Path, mar: Callable[[Path], object], told: str) -> None:
    shapenet(tmp_path)
    mar(tmp_path / "shapenetcore_partanno_segmentation_benchmark_v0_normal")
    with pytest.raises(BadInput, match=told) as caught:
        read("shapenet_part", tmp_path)
    assert "\n" not in str(caught.value)


# Folders of one's own

CUBE = "OFF\n4 2 0\n0 0 0\n2 0 0\n0 2 0\n0 0 2\n3 0 1 2\n3 0 1 3\n"


def folder(root: Path) -> dict[str, np.ndarray]:
    """Every kind of file; the points of those that have no faces."""
    o3d, held = need("open3d"), {}
    for number, part in enumerate(("train", "test")):
        for name in ("bolt", "nut", "_spare"):
            (root / "mine" / part / name).mkdir(parents=True)
        here = root / "mine" / part
        (here / "bolt" / "a.OFF").write_text(CUBE)
        (here / "bolt" / "notes.txt").write_text("not a cloud")
        (here / "bolt" / ".hidden.npy").write_text("")
        mesh = o3d.geometry.TriangleMesh.create_box()
        for file in ("bolt/b.ply", "bolt/c.obj"):
            o3d.io.write_triangle_mesh(str(here / file), mesh)
        for file in ("nut/d.ply", "nut/e.pcd", "nut/f.npy"):
            held[f"{part}/{file}"] = cloud(10 * number + len(held), 240)
            points = held[f"{part}/{file}"][:, :3]
            if file.endswith(".npy"):
                np.save(here / file, held[f"{part}/{file}"].astype(np.float32))
            else:
                o3d.io.write_point_cloud(str(here / file), o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points)))
    return held


def test_a_folder_of_clouds_and_meshes(tmp_path: Path) -> None:
    held = folder(tmp_path)
    published = read("cloud_folder", tmp_path, path="mine", sampling="first")
    assert list(published.classes) == ["bolt", "nut"]
    assert published.train.targets.tolist() == published.test.targets.tolist() == [0, 0, 0, 1, 1, 1]
    found = values(published.train)
    assert found.shape == (6, 8, 3)
    for one, file in zip(found[3:], ("d.ply", "e.pcd", "f.npy"), strict=True):
        assert np.allclose(one, in_sphere(held[f"train/nut/{file}"][:8, :3]), atol=1e-5)
    assert np.allclose(found.mean(1), 0, atol=1e-6)
    assert np.allclose(np.linalg.norm(found, axis=2).max(1), 1, atol=1e-6)


def test_a_mesh_is_sampled_on_its_surface(tmp_path: Path) -> None:
    folder(tmp_path)
    found = values(read("cloud_folder", tmp_path, path="mine", points=200).train)
    for box in found[1:3]:
        low, high = box.min(0), box.max(0)
        gaps = np.minimum(np.abs(box - low), np.abs(high - box)).min(1)
        assert (gaps < 0.02).all()  # each on a side
        assert np.ptp(box, axis=0) == pytest.approx([1.15] * 3, abs=0.1)  # a cube whose corners are at distance 1
    again = values(read("cloud_folder", tmp_path, path="mine", points=200).train)
    assert np.array_equal(found, again)


def test_val_stands_in_for_test(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "mine" / "test").rename(tmp_path / "mine" / "val")
    assert len(read("cloud_folder", tmp_path, path="mine").test) == 6


def write(name: str, text: str | bytes) -> Callable[[Path], object]:
    return lambda home: (home / "train" / "nut" / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def array(value: object) -> Callable[[Path], object]:
    return lambda home: np.save(home / "train" / "nut" / "f.npy", np.array(value))


@pytest.mark.parametrize(
    ("mar", "told"),
    [
        (write("a.off", CUBE.replace("4 2 0", "4 3 0")), "a.off is damaged .it ends after 6 of 7 lines of vertices and faces"),
        (write("d.ply", "ply\nformat ascii 1.0\n"), r"d\.ply is damaged .open3d reads no points in it as \.ply"),
        (write("e.pcd", b"\x00\x01"), r"e\.pcd is damaged .open3d reads no points in it as \.pcd"),
        (write("g.obj", "# nothing\n"), r"g\.obj is damaged .open3d reads no points in it as \.obj"),
        (write("f.npy", b""), r"f\.npy is damaged"),
        (write("f.npy", b"no array"), r"f\.npy is damaged"),
        (array([1.0, 2.0, 3.0]), r"f\.npy is damaged .it is float64 \[3\], expected numbers \[points, 3\]"),
        (array([["a", "b", "c"]]), r"expected numbers \[points, 3\]"),
        (array(np.zeros((7, 3))), r"cloud_folder\.points: got 8, but the cloud .*f\.npy has 7; lower it"),
        (array(np.zeros((9, 3))), r"f\.npy is damaged .all its points are one"),
        (array(np.full((9, 3), np.nan)), r"f\.npy is damaged .point 0 is not finite"),
        (
            lambda home: [(home / part / "nut").rename(home / part / "nut\udcff") for part in ("train", "test")],
            r"got a class folder named 'nut\\udcff' in .*, expected UTF-8 without control characters; rename it",
        ),
        (lambda home: (home / "train").rename(home / "trein"), "train is not there; expected train/<class>"),
        (lambda home: (home / "test").rename(home / "tests"), "holds no test or val"),
        (lambda home: (home / "test" / "bolt").rename(home / "test" / "bold"), "bold is not there|bolt is not there"),
        (lambda home: [f.unlink() for f in (home / "test" / "nut").iterdir()], r"holds no \.off, \.ply, \.obj, \.pcd or \.npy"),
    ],
)
def test_a_bad_folder_is_one_sentence(tmp_path: Path, mar: Callable[[Path], object], told: str) -> None:
    folder(tmp_path)
    mar(tmp_path / "mine")
    with pytest.raises(BadInput, match=told) as caught:
        read("cloud_folder", tmp_path, path="mine")
    assert "\n" not in str(caught.value)


def test_a_folder_needs_a_path() -> None:
    for path in ("", " "):
        with pytest.raises(BadInput, match=r"cloud_folder\.path: got"):
            Data.of({"name": "cloud_folder", "path": path})
    with pytest.raises(BadInput, match=r"cloud_folder\.path: got nothing"):
        Data.of("cloud_folder")
