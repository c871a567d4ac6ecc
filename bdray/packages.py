"""Packages that only one modality needs: imported when it is used, so that `import bdray` and `bdray list` stay fast; a missing
one is a sentence with the command that installs it."""

import ctypes
import importlib
import warnings
from typing import Any, NamedTuple

from bdray.spec import BadInput


class Package(NamedTuple):
    """How a package is got."""

    distribution: str
    """What pip calls it."""
    extra: str
    """The extra of bdray that installs it."""
    does: str
    """What needs it, the subject of the sentence."""


PACKAGES = {
    "av": Package("av", "video", "reading videos"),
    "pytorchvideo": Package("pytorchvideo", "video", "a model of pytorchvideo's"),
    "open3d": Package("open3d", "points", "sampling points of meshes"),
    "libusb_package": Package("libusb-package", "points", "sampling points of meshes"),
    "h5py": Package("h5py", "points", "reading .h5 files"),
    "transformers": Package("transformers", "text", "a language model"),
    "tokenizers": Package("tokenizers", "text", "a language model"),
    "sacrebleu": Package("sacrebleu", "text", "scoring translations"),
    "torchmetrics": Package("torchmetrics", "detection", "scoring detections"),
    "faster_coco_eval": Package("faster-coco-eval", "detection", "scoring detections"),
}
"""By the name of their module."""

DEBIAN = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libudev.so.1": "libudev1",
    "libgomp.so.1": "libgomp1",
}
"""The Debian packages of the shared libraries that open3d loads and no wheel brings."""


def need(name: str) -> Any:
    """A module of one of PACKAGES, imported now; `name` may be one below it, `pytorchvideo.models.x3d`. What it warns of while
    it is imported is its own affair. Raises BadInput where it, or a library of the system that it loads, is missing."""
    head = name.partition(".")[0]
    package = PACKAGES[head]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if head == "open3d":
                _load_libusb()
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = _distribution((error.name or head).partition(".")[0])
        raise BadInput(
            f"{package.does} needs the package {missing!r}, which is not installed; pip install 'bdray[{package.extra}]'"
        ) from None
    except (ImportError, OSError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        debian = next((found for library, found in DEBIAN.items() if library in why), None)
        cure = f"apt-get install {debian}" if debian else f"pip install --force-reinstall {package.distribution}"
        raise BadInput(
            f"{package.does} needs the package {package.distribution!r}, which cannot be loaded ({why}); {cure}"
        ) from None


def _distribution(module: str) -> str:
    """What pip calls the package of a top-level module."""
    return PACKAGES[module].distribution if module in PACKAGES else module


def _load_libusb() -> None:
    """open3d wants libusb-1.0.so.0 for cameras and brings none; the loader takes one that is in the process already."""
    ctypes.CDLL(str(need("libusb_package").get_library_path()), ctypes.RTLD_GLOBAL)
