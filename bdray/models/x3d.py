"""X3D (Feichtenhofer 2020, arXiv 2004.04730): pytorchvideo's, an image network expanded in time, width and depth."""

from bdray.models import Width
from bdray.models._x3d import AnyX3d
from bdray.spec import Positive


class X3d(AnyX3d):
    """The published XS, S and M have width 12 and depth 2.2, the defaults here are narrower and shallower, for a CPU;
    x3d_xs and x3d_s have theirs. Without the dropout before the head."""

    width: Width = 4
    depth: Positive = 1.0
