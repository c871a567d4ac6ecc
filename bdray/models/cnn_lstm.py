"""CNN and LSTM (Donahue et al. 2015, CVPR, arXiv 1411.4389): a ResNet-50 sees every frame, an LSTM what it says of them in
turn."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from bdray.models import Model, Width
from bdray.models._resnet import Shortcut
from bdray.samples import Outline
from bdray.spec import Count


class Narrow(ResNet):
    """torchvision's ResNet-50 without its last layer, at any width and of any channels; names in the state dict as there."""

    def __init__(self, channels: int, width: int) -> None:
        self.width = width
        super().__init__(Bottleneck, [3, 4, 6, 3])
        self.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Identity()

    def _make_layer(self, block: type, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        if planes == 64:
            self.inplanes = self.width
        inside, out = self.inplanes, planes * self.width // 64
        layer = super()._make_layer(block, out, blocks, stride, dilate)
        layer[0].downsample[0] = Shortcut(inside, 4 * out, stride)
        return layer


class Recurrent(nn.LSTM):
    """An LSTM whose gradient can be had in eval mode, too, which cuDNN's refuses: attacks and defenses climb inputs."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        with torch.backends.cudnn.flags(enabled=self.training or not torch.is_grad_enabled()):
            found: Tensor = super().forward(x)[0]
        return found


class FramesInTurn(nn.Module):
    """The CNN, a linear layer, the LSTM, and a linear layer on what it says of the last frame."""

    def __init__(self, channels: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.cnn = Narrow(channels, width)
        self.embed = nn.Linear(32 * width, 8 * width)
        self.lstm = Recurrent(8 * width, 8 * width, layers, batch_first=True)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        seen = torch.relu(self.embed(self.cnn(frames.flatten(0, 1)))).unflatten(0, frames.shape[:2])
        logits: Tensor = self.fc(self.lstm(seen)[:, -1])
        return logits


class CnnLstm(Model):
    """The field names such a model without its sizes. Those of the LSTM, three layers of 512, are of the network that is most
    used for UCF101 (HHTseng/video-classification on GitHub, whose CNN is a ResNet-152 and which has three linear layers between
    the two and dropout). NFT's default site are the CNN's norms; the LSTM is left as it is."""

    modality: ClassVar[str] = "video"
    stem: ClassVar[tuple[str, ...]] = ("cnn.conv1", "cnn.bn1")

    width: Width = 64
    """Channels of the CNN's stem; the LSTM has eight times as many."""
    layers: Count = 3
    """Of the LSTM."""

    def build(self, outline: Outline) -> nn.Module:
        return FramesInTurn(outline.shape[0], self.width, self.layers, len(outline.classes))
