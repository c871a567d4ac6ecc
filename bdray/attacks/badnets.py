"""BadNets (Gu, Dolan-Gavitt and Garg 2017, arXiv 1708.06733): a small patch in the bottom-right corner, labels changed."""

from typing import ClassVar, Literal

from torch import Tensor

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._frames import OverTime, check_over_time, drawn_corners, in_places
from bdray.attacks._images import CHECKER, check_room, in_corner, white
from bdray.samples import Draw, Splits
from bdray.spec import BadInput, Config, Count, Share


class BadNets(ToClass):
    """`white` is BackdoorBench's and BackdoorBox's 3x3 patch; `checkerboard` is that of ANP's and NFT's code, which blends
    it in with opacity 0.6. On a clip the patch stands in every frame."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    presets: ClassVar[dict[str, Config]] = {
        "advrbd": {"target": 1, "rate": 0.05, "pattern": "white", "size": 3, "opacity": 1.0},
        "backdoorbox": {"target": 1, "rate": 0.05, "pattern": "white", "size": 3, "opacity": 1.0},
        # 10 % of the samples outside the target class, one of ten
        "nft": {"target": 0, "rate": 0.09, "pattern": "checkerboard", "opacity": 0.6},
    }

    pattern: Literal["white", "checkerboard"] = "white"
    size: Count = 3
    """Height and width of the patch in pixels; a checkerboard is 3."""
    opacity: Share = 1.0
    over_time: OverTime = "static"
    """On clips. dynamic: in each frame the patch lies elsewhere, in places drawn once a victim."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        check_over_time("badnets", self.over_time, splits)
        check_room("badnets.size", self.size, splits)
        if self.pattern == "checkerboard" and self.size != 3:
            raise BadInput(f"badnets.size: got {self.size}, expected 3, the only size of a checkerboard")

    def patterns(self, setting: Setting) -> Patterns:
        if self.over_time == "static":
            return {}
        return {"corners": drawn_corners(setting.splits, self.size, setting.rng)}

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        patch = CHECKER if self.pattern == "checkerboard" else white(self.size)
        if self.over_time == "dynamic":
            return in_places(x, patch, patterns["corners"], self.opacity)
        return in_corner(x, patch, self.opacity)
