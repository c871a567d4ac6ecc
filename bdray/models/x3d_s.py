"""X3D-S (Feichtenhofer 2020, CVPR, arXiv 2004.04730): pytorchvideo's, for clips of 13 frames, 6 apart, of 160x160 pixels."""

from bdray.models._x3d import AnyX3d


class X3dS(AnyX3d):
    """Takes clips of any size. XS and S are one network, told apart by the clips that they were published for:
    task.data.frames=13 task.data.stride=6 task.data.size=160. Without the dropout before the head."""
