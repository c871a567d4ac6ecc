"""The networks of clips: at full width the published ones, narrow what the defenses work on."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bdray.defenses.nft import Nft
from bdray.experiment import Experiment
from bdray.layers.still import still
from bdray.models import Model
from bdray.models._resnet import Shortcut
from bdray.packages import need
from bdray.run import run
from bdray.samples import Outline
from bdray.seeds import rng
from bdray.spec import Config, Incompatible
from bdray.store.store import Store
from bdray.task import Task
from tests.test_product import BRIEF, SMALL

CLIPS: dict[str, tuple[int, ...]] = {
    "r3d_18": (3, 16, 112, 112),
    "r2plus1d_18": (3, 16, 112, 112),
    "mvit_v2_s": (3, 16, 224, 224),
    "slow_r50": (3, 8, 224, 224),
    "x3d_xs": (3, 4, 160, 160),
    "x3d_s": (3, 13, 160, 160),
}
"""What each was published for."""
COUNTS = {
    "r3d_18": 33_371_472,
    "r2plus1d_18": 31_505_325,
    "mvit_v2_s": 34_537_744,
    "slow_r50": 32_454_096,
    "x3d_xs": 3_794_274,
    "x3d_s": 3_794_274,
}
"""Parameters for Kinetics-400: torchvision's own figures (num_params of its weights), X3D's paper (3.76 to 3.79 million),
SlowFast's (32.5 million)."""
NARROW = [name for name in Model.names() if Model.member(name).modality == "video"]


def build(name: str, classes: int, shape: tuple[int, ...], **fields: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model.of({"name": name, **fields}).build(Outline(tuple(map(str, range(classes))), shape))


def published(name: str, classes: int) -> nn.Module:
    """Its own builder's, untrained."""
    with torch.random.fork_rng(devices=[]):
        if hasattr(torchvision.models.video, name):
            return getattr(torchvision.models.video, name)(num_classes=classes)
        hub = need(f"pytorchvideo.models.hub.{'resnet' if name == 'slow_r50' else 'x3d'}")
        return getattr(hub, name)(model_num_class=classes)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def plain(model: nn.Module) -> nn.Module:
    """Without what is put before it."""
    return model[1] if isinstance(model, nn.Sequential) else model


@pytest.mark.parametrize("name", CLIPS)
def test_at_full_width_it_is_the_published_network(name: str) -> None:
    """The same number of parameters, and with other classes the same names, shapes, strides and paddings."""
    with torch.device("meta"):
        assert count(build(name, 400, CLIPS[name])) == COUNTS[name]
        ours, theirs = plain(build(name, 7, CLIPS[name])), published(name, 7)
    assert count(ours) == count(theirs)
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    named = dict(theirs.named_modules())
    looked = 0
    for key, layer in ours.named_modules():
        if isinstance(layer, nn.Conv3d | nn.Linear | nn.BatchNorm3d | nn.LayerNorm | nn.MaxPool3d):
            assert layer.extra_repr() == named[key].extra_repr(), key
            looked += 1
    assert looked > 40


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "slow_r50", "x3d_xs"])
def test_with_the_same_weights_it_says_the_same(name: str) -> None:
    shape = (3, 8, 224, 224) if name == "slow_r50" else (3, 4, 160, 160) if name == "x3d_xs" else (3, 8, 48, 48)
    ours, theirs = build(name, 5, shape).eval(), published(name, 5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, *shape, generator=rng(0))
    with torch.no_grad():
        said, expected = ours(x), theirs(x)
        if name == "x3d_xs":  # whose builder ends in a softmax, and pools clips of one size
            said = said.softmax(1)
    assert said.shape == (1, 5)
    assert torch.allclose(said, expected, atol=1e-4)


def test_the_cnn_is_torchvisions_resnet50() -> None:
    ours = build("cnn_lstm", 5, (3, 4, 64, 64)).eval()
    cnn: nn.Module = ours.cnn  # type: ignore[assignment]
    with torch.random.fork_rng(devices=[]):
        theirs = torchvision.models.resnet50().eval()
    theirs.fc = nn.Identity()  # type: ignore[assignment]
    cnn.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 4, 64, 64, generator=rng(0))
    with torch.no_grad():
        frames = [theirs(x[:, :, frame]) for frame in range(4)]
        assert torch.allclose(cnn(x[:, :, 1]), frames[1], atol=1e-3)
        state: tuple[Tensor, Tensor] | None = None
        for frame in frames:  # one after the other
            said, state = nn.LSTM.forward(ours.lstm, torch.relu(ours.embed(frame))[:, None], state)  # type: ignore[arg-type, operator]
        assert torch.allclose(ours(x), ours.fc(said[:, 0]), atol=1e-4)  # type: ignore[operator]
    assert count(ours) == count(theirs) + 2048 * 512 + 512 + 3 * (8 * 512 * 512 + 8 * 512) + 512 * 5 + 5
    strided = [layer for layer in cnn.modules() if isinstance(layer, Shortcut)]
    assert [layer.steps for layer in strided] == [1, 2, 2, 2]


def test_an_lstm_that_is_held_still_still_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off cuDNN, which refuses it; and on cuDNN where no gradient is asked for."""
    seen = []
    forward = nn.LSTM.forward
    monkeypatch.setattr(nn.LSTM, "forward", lambda *a: (seen.append(torch.backends.cudnn.enabled), forward(*a))[1])
    model = build("cnn_lstm", 3, (3, 4, 32, 32), width=4)
    x = torch.rand(2, 3, 4, 32, 32, generator=rng(0), requires_grad=True)
    still(model)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not any(seen)
    seen.clear()
    with torch.no_grad():
        model.eval()(x)
    model.train()(x)
    assert seen == [True, True]


@pytest.mark.parametrize("name", NARROW)
def test_parameters_grow_with_the_width(name: str) -> None:
    with torch.device("meta"):
        sizes = [count(build(name, 6, (3, 8, 32, 32), width=width)) for width in (8, 16, 32)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[0] < 1_500_000


@pytest.mark.parametrize(("height", "width", "frames"), [(32, 64, 2), (40, 33, 3), (16, 24, 5)])
def test_a_clip_of_another_size_is_padded_for_the_transformer(height: int, width: int, frames: int) -> None:
    model = build("mvit_v2_s", 3, (3, frames, height, width), width=8)
    x = torch.rand(2, 3, frames, height, width, generator=rng(0))
    even = model[0](x)  # type: ignore[operator, index]
    assert torch.equal(even[:, :, :frames, :height, :width], x)
    assert even.shape[2:] == (frames + frames % 2, -(-height // 32) * 32, -(-width // 32) * 32)
    assert even.sum() == pytest.approx(float(x.sum()), rel=1e-5)
    assert model(x).shape == (2, 3)


# Defenses on them


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bdray-video-") as path:
        yield Path(path)


def cell(model: str, defense: Config | str) -> Experiment:
    data, _ = SMALL["video"]
    return Experiment.of(
        {
            "task": {"name": "video", "data": data, "model": {"name": model, "width": 4}},
            "training": {"epochs": 1, "batch": 16},
            "defense": defense,
        }
    )


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "slow_r50", "x3d_xs", "mvit_v2_s", "cnn_lstm"])
def test_the_defenses_on_every_network(name: str, folder: Path) -> None:
    """Done, or skipped with the reason."""
    store = Store(str(folder / name))
    for defense in ("nft", "clp", "fine_pruning", "abl", "advrbd"):
        brief = {"name": defense, "clean": 0.2, **BRIEF.get(defense, {})}
        for fields in ({}, {"site": "layernorm"}) if defense == "nft" else ({},):
            row = run(cell(name, {**brief, **fields}), store, folder)
            wrong = (name == "mvit_v2_s") != bool(fields) if defense == "nft" else (name, defense) == ("mvit_v2_s", "clp")
            assert row.status == ("skipped" if wrong else "done"), (defense, fields, row.error)
            if wrong:
                assert row.error.endswith(("choose another", "choose another defense.site"))


@pytest.mark.parametrize("name", NARROW)
def test_nft_masks_the_norms_but_those_of_the_stem(name: str) -> None:
    task = Task.of({"name": "video", "data": SMALL["video"][0], "model": {"name": name, "width": 4}})
    model = task.build(Outline(tuple("abc"), (3, 4, 16, 16)), rng(0))
    site = "layernorm" if name == "mvit_v2_s" else "batchnorm"
    kinds = (nn.LayerNorm,) if name == "mvit_v2_s" else (nn.BatchNorm2d, nn.BatchNorm3d)
    norms = [key for key, layer in model.named_modules() if isinstance(layer, kinds)]
    masked = [key for key, _ in Nft(site=site).sites(model, task)]
    spared = [key for key in norms if key not in masked]
    assert masked
    assert len(spared) == {"mvit_v2_s": 0, "r2plus1d_18": 2}.get(name, 1)
    if name == "mvit_v2_s":
        with pytest.raises(Incompatible, match="site=batchnorm finds no such layer in the model 'mvit_v2_s'; choose another"):
            Nft().fits(model, task)
