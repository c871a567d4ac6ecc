"""torchvision's residual networks of clips (Tran et al. 2018, CVPR, arXiv 1711.11248), at any width and of any channels."""

from collections.abc import Callable

from torch import nn
from torchvision.models.video.resnet import BasicBlock, VideoResNet


class Narrow(VideoResNet):
    """An 18-layer VideoResNet whose stages have width, 2 width, 4 width and 8 width channels: at 64 torchvision's. Names in the
    state dict as there."""

    def __init__(self, width: int, convolution: type[nn.Module], stem: Callable[..., nn.Module], classes: int) -> None:
        self.width = width
        super().__init__(BasicBlock, [convolution] * 4, [2, 2, 2, 2], stem, classes)
        self.fc = nn.Linear(8 * width, classes)
        nn.init.normal_(self.fc.weight, 0, 0.01)  # as torchvision's
        nn.init.zeros_(self.fc.bias)

    def _make_layer(self, block: type, conv_builder: type, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        if planes == 64:
            self.inplanes = self.width
        return super()._make_layer(block, conv_builder, planes * self.width // 64, blocks, stride)
