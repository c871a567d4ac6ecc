"""NFT against an independent oracle: the authors' update written out plainly, and the facts of their code."""

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.defenses import Defense, Evidence
from bdray.defenses import nft as module
from bdray.defenses.nft import Nft, block_of
from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.spec import Incompatible
from bdray.task import Batch, Task
from bdray.tasks.image import Image
from bdray.training import silent

CLASSES = 4


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.of({"name": "image", "data": "miniature", "model": {"name": "resnet18", "width": 4}})


@pytest.fixture(scope="module")
def splits() -> Splits:
    draw = rng(0, "nft tests")
    inputs = torch.randint(0, 256, (40, 3, 16, 16), generator=draw).to(torch.uint8)
    samples = Samples(inputs, torch.arange(40) % CLASSES)
    return Splits(samples, samples, samples, [str(c) for c in range(CLASSES)])


@pytest.fixture
def victim(task: Task, splits: Splits) -> nn.Module:
    """A network whose BatchNorms are not trivial: scales, offsets and running statistics all drawn."""
    model = task.build(task.outline(splits), rng(0, "victim"))
    draw = rng(0, "norms")
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            size = norm.weight.shape
            norm.weight.data = torch.rand(size, generator=draw) + 0.5
            norm.bias.data = torch.randn(size, generator=draw) * 0.2
            norm.running_mean = torch.randn(size, generator=draw) * 0.1
            norm.running_var = torch.rand(size, generator=draw) + 0.5
    return model.eval()


def defend(defense: Nft, model: nn.Module, task: Task, splits: Splits, clean: Samples | None = None) -> nn.Module:
    evidence = Evidence(model=copy.deepcopy(model), clean=clean or splits.held, outline=task.outline(splits))
    return defense.defend(evidence, task, rng(7, "defense"), silent).model


def authors(defense: Nft, model: nn.Module, task: Task, splits: Splits) -> nn.Module:
    """The authors' update, plainly: masked BatchNorms but the stem's, cross-entropy of both labels,
    L1 distance from 1 over the number of samples per class, SGD with momentum by hand, then the clamp."""
    model = copy.deepcopy(model)
    for p in model.parameters():
        p.requires_grad_(False)
    norms = [m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and n != "net.bn1"]
    gammas = [norm.weight.detach().clone() for norm in norms]
    masks = [torch.ones_like(g) for g in gammas]
    velocity = [torch.zeros_like(g) for g in gammas]
    per_class = len(splits.held) / CLASSES
    model.train()
    for step, batch in enumerate(defense.draws(splits.held, task, rng(7, "defense"))):
        live = [m.clone().requires_grad_() for m in masks]
        for norm, gamma, mask in zip(norms, gammas, live, strict=True):
            del norm._parameters["weight"]
            norm.weight = gamma * mask
        logits = model(batch.inputs)
        mixed = batch.weight * F.cross_entropy(logits, batch.targets) + (1 - batch.weight) * F.cross_entropy(
            logits, batch.partner
        )
        penalty = torch.stack([(1 - m).abs().sum() for m in live]).sum()
        grads = torch.autograd.grad(mixed + 0.001 * penalty / per_class, live)
        passes = math.ceil(defense.steps / 200)
        lr = 0.02 + (0.05 - 0.02) * (1 + math.cos(math.pi * (step // 200) / passes)) / 2
        for number, (grad, norm) in enumerate(zip(grads, norms, strict=True), start=1):
            velocity[number - 1] = 0.95 * velocity[number - 1] + grad
            floor = defense.alpha * math.exp(-defense.beta * number)
            masks[number - 1] = (masks[number - 1] - lr * velocity[number - 1]).clamp(floor, 1)
            del norm.weight
            norm._parameters["weight"] = nn.Parameter(gammas[number - 1])
    for norm, gamma, mask in zip(norms, gammas, masks, strict=True):
        norm._parameters["weight"] = nn.Parameter(gamma * mask)
    return model.eval()


def gap(a: nn.Module, b: nn.Module) -> float:
    """The largest difference of any weight or buffer."""
    other = b.state_dict()
    return max(float((v.double() - other[k].double()).abs().max()) for k, v in a.state_dict().items())


@pytest.fixture
def twenty() -> Nft:
    """Floors so high that masks meet them within twenty steps."""
    return Nft(steps=20, alpha=0.97, beta=0.02)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All in float64: in float32 the last bit, which differs from processor to processor, may put a value on the other side of
    a ReLU's kink, and twenty steps make 1e-3 of it."""
    collate = Image.collate

    def doubled(task: Image, samples: Samples) -> Batch:
        batch = collate(task, samples)
        return batch._replace(inputs=batch.inputs.double())

    monkeypatch.setattr(Image, "collate", doubled)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
def test_twenty_steps_with_the_authors_settings_equal_their_update(victim: nn.Module, task: Task, splits: Splits) -> None:
    defense, victim = Nft(steps=20), victim.double()
    assert gap(defend(defense, victim, task, splits), authors(defense, victim, task, splits)) < 1e-10


@pytest.mark.usefixtures("double")
def test_twenty_steps_equal_the_authors_update(twenty: Nft, victim: nn.Module, task: Task, splits: Splits) -> None:
    victim = victim.double()
    ours, theirs = defend(twenty, victim, task, splits), authors(twenty, victim, task, splits)
    assert gap(ours, theirs) < 1e-10
    assert gap(ours, victim) > 0.05  # it did something


def test_the_schedule_changes_within_a_run_as_the_authors(victim: nn.Module, task: Task, splits: Splits) -> None:
    assert [round(Nft(steps=1000).lr_at(s), 6) for s in (0, 199, 200, 400, 999)] == [0.05, 0.05, 0.047135, 0.039635, 0.022865]


def no_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "clamp", lambda masked, upper: None)


def wrong_index(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Nft.floor
    monkeypatch.setattr(Nft, "floor", lambda self, index: true(self, index - 1))


def masked_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    true = module.fold

    def fold(layer: nn.Module) -> None:
        mask = layer.parametrizations.weight[0].values.detach().clone()  # type: ignore[index, union-attr]
        true(layer)
        layer.bias.data *= mask  # type: ignore[operator, union-attr]

    monkeypatch.setattr(module, "fold", fold)


def no_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    sgd = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda masks, lr, momentum: sgd(masks, lr, momentum=0.0))


def unweighted_regularizer(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Nft.distance
    monkeypatch.setattr(Nft, "distance", lambda self, masks: 10 * true(self, masks))


@pytest.mark.parametrize("mutation", [no_clamp, wrong_index, masked_bias, no_momentum, unweighted_regularizer])
def test_the_oracle_catches_mutations(
    mutation: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    twenty: Nft,
    victim: nn.Module,
    task: Task,
    splits: Splits,
) -> None:
    theirs = authors(twenty, victim, task, splits)
    mutation(monkeypatch)
    assert gap(defend(twenty, victim, task, splits), theirs) > 1e-4


def test_floors_are_the_published_ones() -> None:
    """The 19 masks of a ResNet-18 in the authors' code, alpha 0.8 and beta 0.5."""
    published = [0.4852, 0.2943, 0.1785, 0.1083, 0.0657, 0.0398, 0.0242, 0.0147, 0.0089]
    published += [0.0054, 0.0033, 0.0020, 0.0012, 0.0007, 0.0004, 0.0003, 0.0002, 0.0001]
    assert [round(Nft().floor(i), 4) for i in range(1, 19)] == published
    assert f"{Nft().floor(19):.5f}" == "0.00006"


def test_a_full_resnet18_has_the_authors_masks() -> None:
    """19 vectors, 4,736 values, in the order block bn1, bn2, shortcut; no stem, no head."""
    task = Task.of({"name": "image", "data": "cifar10", "model": "resnet18"})
    empty = Samples(torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    model = task.build(task.outline(Splits(empty, empty, empty, [str(c) for c in range(10)])), rng(0))
    masked = Nft().attach(model, task)
    assert [len(m.mask.values) for m in masked] == [64] * 4 + [128] * 5 + [256] * 5 + [512] * 5
    assert [m.name for m in masked][4:7] == ["net.layer2.0.bn1", "net.layer2.0.bn2", "net.layer2.0.downsample.1"]
    assert len(Nft(stem=True).sites(task.build(task.outline(Splits(empty, empty, empty, ["a"])), rng(0)), task)) == 20


def test_layer_index_choices(victim: nn.Module, task: Task) -> None:
    for index, expected in (("block", [1, 1, 2, 2, 3, 3, 3]), ("depth", [n / 19 for n in range(1, 8)])):
        masked = Nft(index=index, alpha=0.9, beta=0.7).attach(copy.deepcopy(victim), task)
        floors = [0.9 * math.exp(-0.7 * value) for value in expected]
        assert [m.floor for m in masked][:7] == pytest.approx(floors)
    assert block_of("net.layer1.0.downsample.1") == "net.layer1.0"


@pytest.mark.parametrize("site", ["batchnorm", "rows"])
def test_folding_is_exact_and_keeps_the_keys(site: str, victim: nn.Module, task: Task) -> None:
    model = copy.deepcopy(victim)
    defense = Nft(site=site, bn="eval")
    masked = defense.attach(model, task)
    draw = rng(0, "masks")
    for m in masked:
        m.mask.values.data = torch.rand(m.mask.values.shape, generator=draw)
    x = torch.rand(8, 3, 16, 16, generator=draw)
    with torch.no_grad():
        before = model.eval()(x)
        for m in masked:
            module.fold(m.module)
        after = model(x)
        original = victim(x)
    assert float((before - after).abs().max()) < 1e-6
    assert float((original - after).abs().max()) > 1e-3
    assert list(model.state_dict()) == list(victim.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in victim.named_parameters()]


class Odd(nn.Module):
    """Every other kind of layer that can be masked."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 5, 2)
        self.one = nn.Conv2d(5, 6, 3)
        self.norm = nn.LayerNorm(6)
        self.mid = nn.Linear(6, 7)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mid(self.norm(self.one(self.up(x)).mean((2, 3))))))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"site": "rows"}, ["up", "one", "mid"]),
        ({"site": "rows", "head": True}, ["up", "one", "mid", "head"]),
        ({"site": "layernorm"}, ["norm"]),
    ],
)
def test_models_without_batchnorm(fields: dict, names: list[str], task: Task) -> None:
    torch.manual_seed(0)
    model = Odd()
    masked = Nft(**fields).attach(model, task)
    assert [m.name for m in masked] == names
    for m in masked:
        m.mask.values.data.uniform_(0.2, 1)
        bias = m.module.bias
        assert bias is not None
    assert model.up.weight.shape == (3, 5, 2, 2)
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        before = model(x)
        for m in masked:
            module.fold(m.module)
        assert float((before - model(x)).abs().max()) < 1e-6
    if "up" in names:  # a transposed convolution's output channels are its second axis
        assert masked[0].mask.values.shape == (5,)
    with pytest.raises(Incompatible, match="batchnorm"):
        Nft().attach(Odd(), task)


def test_rows_with_batch_statistics_are_refused(victim: nn.Module, task: Task) -> None:
    with pytest.raises(Incompatible, match=r"bn=eval"):
        Nft(site="rows", bn="train").attach(copy.deepcopy(victim), task)


def test_only_masks_get_gradients(
    twenty: Nft, victim: nn.Module, task: Task, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    true = module.clamp

    def spy(masked: list[module.Masked], upper: float) -> None:
        seen.append({n for n, p in model.named_parameters() if p.grad is not None})
        true(masked, upper)

    model = copy.deepcopy(victim)
    monkeypatch.setattr(module, "clamp", spy)
    twenty.defend(Evidence(model=model, clean=splits.held, outline=task.outline(splits)), task, rng(1), silent)
    assert len(seen) == 20
    assert all(len(names) == 19 and all("parametrizations.weight.0.values" in n for n in names) for names in seen)
    assert all(p.requires_grad for p in model.parameters())


def test_batchnorm_modes(victim: nn.Module, task: Task, splits: Splits) -> None:
    """train overwrites the running statistics, the stem's too; eval leaves them; recalibrate sets them to those of the
    clean samples under the final weights."""
    before = victim.state_dict()
    stats = [k for k in before if "running" in k]
    trained, evaluated, recalibrated = (
        defend(Nft(steps=3, bn=bn), victim, task, splits).state_dict() for bn in ("train", "eval", "recalibrate")
    )
    assert all(not torch.equal(trained[k], before[k]) for k in stats)
    assert all(torch.equal(evaluated[k], before[k]) for k in stats)
    stem = task.collate(splits.held)
    model = defend(Nft(steps=3, bn="recalibrate", batch=1000), victim, task, splits)
    pixels = model.normalize(stem.inputs)
    maps = model.net.conv1(pixels)
    assert torch.allclose(model.net.bn1.running_mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.net.bn1.running_var, maps.var((0, 2, 3)), atol=1e-4)
    assert model.net.bn1.momentum == 0.1
    assert not torch.equal(recalibrated[stats[0]], trained[stats[0]])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0.3 + 0.8 + 0.0),
        ({"reduction": "mean"}, 1.1 / 3),
        ({"norm": "l2"}, 0.09 + 0.64),
        ({"norm": "linf"}, 0.8),
        ({"norm": "l2", "reduction": "mean"}, 0.73 / 3),
    ],
)
def test_regularizers(fields: dict, expected: float) -> None:
    masks = [torch.tensor([0.7]), torch.tensor([0.2, 1.0])]
    assert float(Nft(**fields).distance(masks)) == pytest.approx(expected)


def test_draws(task: Task, splits: Splits) -> None:
    """With replacement a batch is full even in one-shot; without, every sample is seen once a round; mixup 0 mixes nothing;
    without augmentation the inputs are the clean ones."""
    few = splits.held.take(torch.arange(CLASSES))
    assert all(len(b.targets) == 128 for b in Nft(steps=3).draws(few, task, rng(0)))
    plain = Nft(steps=4, replacement=False, batch=16, mixup=0.0, augment=False)
    parts = list(plain.draws(splits.held, task, rng(0)))
    assert [len(p.targets) for p in parts] == [16, 16, 8, 16]
    assert all(p.partner is None for p in parts)
    pixels = torch.cat([p.inputs for p in parts[:3]])
    every = task.collate(splits.held).inputs
    assert sorted(pixels.flatten(1).sum(1).tolist()) == pytest.approx(sorted(every.flatten(1).sum(1).tolist()))
    weights = [b.weight for b in Nft(steps=400, batch=2).draws(few, task, rng(0))]
    assert 0.45 < sum(weights) / 400 < 0.55
    assert 0.07 < torch.tensor(weights).var() < 0.1  # 1/12 of a uniform lambda
    peaked = [b.weight for b in Nft(steps=400, batch=2, mixup=50.0).draws(few, task, rng(0))]
    assert torch.tensor(peaked).var() < 0.005


def test_bounds_hold_and_the_table_tells_them(victim: nn.Module, task: Task, splits: Splits) -> None:
    defense = Nft(steps=30, lr=0.5, upper=1.1)
    evidence = Evidence(model=copy.deepcopy(victim), clean=splits.held, outline=task.outline(splits))
    rows = defense.defend(evidence, task, rng(0), silent).tables["masks"].to_pylist()
    assert len(rows) == sum(m.weight.numel() for n, m in victim.named_modules() if isinstance(m, nn.BatchNorm2d)) - 4
    assert all(row["floor"] - 1e-6 <= row["mask"] <= 1.1 + 1e-6 for row in rows)
    assert any(abs(row["mask"] - row["floor"]) < 1e-6 for row in rows)
    assert any(row["mask"] > 1 for row in rows)


def test_the_defaults_are_the_authors() -> None:
    expected = {"alpha": 0.8, "beta": 0.5, "eta": 1e-3, "mixup": 1.0, "bn": "train", "steps": 1000, "lr": 0.05}
    expected |= {"momentum": 0.95, "lr_end": 0.4, "lr_every": 200, "batch": 128, "replacement": True, "augment": True}
    expected |= {"clean": 0.01, "norm": "l1", "reduction": "sum", "upper": 1.0, "site": "batchnorm", "index": "mask"}
    assert {k: v for k, v in Defense.of("nft").config().items() if k in expected} == expected
