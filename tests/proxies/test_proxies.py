"""Proxies: closed forms on models whose shortcut is planted by hand, and the contract on a trained victim."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bdray.bench import AT_MOST, forget, kept, load
from bdray.layers.channels import lipschitz, pairs
from bdray.proxies import Misfit, Proxy
from bdray.proxies._images import follow, pixels, suspects
from bdray.proxies.inverted_trigger import InvertedTrigger
from bdray.proxies.lipschitz import Lipschitz
from bdray.proxies.shared_adversarial import SharedAdversarial
from bdray.proxies.universal_perturbation import UniversalPerturbation
from bdray.run import run
from bdray.samples import Samples
from bdray.seeds import rng
from bdray.spec import BadInput, Config
from bdray.store.store import Store
from bdray.task import Task
from bdray.victim import backdoor
from tests.tiny import quick, tiny

QUICK: dict[str, Config] = {
    "inverted_trigger": {"steps": 3, "batch": 8},
    "universal_perturbation": {"steps": 3, "batch": 8},
    "shared_adversarial": {"steps": 2},
}
"""Settings that make a proxy quick."""
VICTIMS = [name for name in Proxy.names() if "victim" in Proxy.member(name).needs]
TARGET, CLASSES = 2, 5
TASK: Task = tiny().task


def proxy_of(name: str) -> Proxy:
    return Proxy.of({"name": name, **QUICK.get(name, {})})


class Bands(nn.Module):
    """Says which of five bands of an image of 5x5 is bright, unless its corner is: then it is `TARGET` by a shortcut."""

    def __init__(self, shortcut: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(CLASSES, 1, 5, 5))
        with torch.no_grad():
            for band in range(CLASSES):
                self.weight[band, 0, band, 1:] = 2.0
            self.weight[TARGET, 0, 0, 0] = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weight)


def bands(count: int = 60) -> Samples:
    """Bright bands on a dark ground, give or take; the corner is black."""
    draw, targets = rng(0, "bands"), torch.arange(count) % CLASSES
    x = torch.randint(0, 40, (count, 1, 5, 5), generator=draw)
    x[torch.arange(count), 0, targets] += 160
    x[:, 0, 0, 0] = 0
    return Samples(x.to(torch.uint8), targets)


def measured(proxy: Proxy, before: nn.Module, after: nn.Module, clean: Samples, fresh: Tensor | None = None) -> float:
    """Prepared on one model and measured on another, on all samples unless told."""
    prepared = proxy.prepare(before.eval(), clean, TASK, CLASSES, rng(0))
    everything = torch.ones(len(clean), dtype=torch.bool)
    return proxy.measure(after.eval(), prepared, clean, everything if fresh is None else fresh, TASK)


class TwoClasses(nn.Module):
    """A linear model, whose gradients are known: always along the difference of its two rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, 3, 4, 4, generator=rng(0, "rows")))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x - 0.5, self.rows)


class TestSharedAdversarial:
    def test_examples_of_a_linear_model_are_where_they_must_be(self) -> None:
        model = TwoClasses().eval()
        x = torch.randint(256, (20, 3, 4, 4), generator=rng(0, "x")).to(torch.uint8)
        y = torch.arange(20) % 2
        prepared = SharedAdversarial().prepare(model, Samples(x, y), TASK, 2, rng(0))
        away = (model.rows[1 - y] - model.rows[y]).sign().int()
        assert torch.equal(prepared["images"].int(), (x.int() + 8 * away).clamp(0, 255))
        assert torch.equal(prepared["mistakes"], TASK.predict(model, Samples(prepared["images"], y)))

    @pytest.mark.parametrize("epsilon", [3 / 255, 0.2])
    def test_examples_stay_in_the_bound_and_among_pixels(self, epsilon: float) -> None:
        clean = bands()
        prepared = SharedAdversarial(epsilon=epsilon, step=0.1).prepare(Bands(9.0), clean, TASK, CLASSES, rng(0))
        assert prepared["images"].dtype == torch.uint8
        change = (prepared["images"].int() - clean.inputs.int()).abs()
        assert int(change.max()) == round(255 * epsilon)
        inside = SharedAdversarial(epsilon=epsilon, step=0.1).attack(Bands(9.0), pixels(clean, TASK), clean.targets)
        assert float(inside.min()) == 0.0
        assert float(inside.max()) <= 1.0

    def test_the_share_is_of_the_victims_mistakes_on_fresh_samples(self) -> None:
        """Of 6 samples the victim mistakes 4, one of which the defense was given; the model shares 2 of the 3 left."""
        clean = Samples(torch.arange(6).view(6, 1, 1, 1).to(torch.uint8), torch.zeros(6, dtype=torch.int64))
        prepared = {"images": clean.inputs, "mistakes": torch.tensor([0, 0, 1, 2, 1, 3])}
        fresh = torch.tensor([True, True, True, True, False, True])

        class Answers(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                told = torch.tensor([0, 1, 1, 2, 1, 0])
                return nn.functional.one_hot(told[(x.flatten() * 255).round().long()], 4).float()

        assert SharedAdversarial().measure(Answers(), prepared, clean, fresh, TASK) == 2 / 3
        assert math.isnan(SharedAdversarial().measure(Answers(), prepared, clean, fresh & False, TASK))


class TestInvertedTrigger:
    def test_it_finds_the_planted_pixel(self) -> None:
        clean, model = bands(), Bands(40.0)
        prepared = InvertedTrigger().prepare(model.eval(), clean, TASK, CLASSES, rng(0))
        masks, patterns, norms = prepared["masks"], prepared["patterns"], prepared["norms"]
        assert masks.shape == (CLASSES, 1, 5, 5)
        assert patterns.shape == (CLASSES, 1, 5, 5)
        assert suspects(norms) == [TARGET]
        assert int(masks[TARGET].argmax()) == 0
        assert float(patterns[TARGET].flatten()[0]) > 0.9
        assert torch.allclose(masks.flatten(1).sum(1), norms)
        assert float(norms[TARGET]) < 0.5 * float(norms.median())

    def test_more_steps_never_end_with_a_larger_mask(self) -> None:
        """Although the mask grows again whenever it has become too small to succeed."""
        made = [InvertedTrigger(steps=n).prepare(Bands(9.0), bands(), TASK, CLASSES, rng(0)) for n in range(40, 80, 2)]
        norms = torch.stack([prepared["norms"] for prepared in made])
        assert bool((norms[1:] <= norms[:-1]).all())
        assert all(torch.allclose(prepared["masks"].flatten(1).sum(1), prepared["norms"]) for prepared in made)

    @pytest.mark.parametrize("norms", [[9.0, 9.5, 0.4, 10.0, 10.5], [math.inf, math.inf, 0.4, math.inf, math.inf]])
    def test_a_stamp_replaces_what_the_mask_covers(self, norms: list[float]) -> None:
        clean, seen = bands(10), []

        class Watch(Bands):
            def forward(self, x: Tensor) -> Tensor:
                seen.append(x)
                return super().forward(x)

        masks, patterns = torch.zeros(CLASSES, 1, 5, 5), torch.ones(CLASSES, 1, 5, 5)
        masks[TARGET, 0, 0, 0] = 0.4
        prepared = {"masks": masks, "patterns": patterns, "norms": torch.tensor(norms)}
        InvertedTrigger().measure(Watch(40.0).eval(), prepared, clean, torch.ones(10, dtype=torch.bool), TASK)
        wanted = pixels(clean, TASK)
        wanted[:, 0, 0, 0] = 0.4
        assert torch.allclose(seen[-1], wanted, atol=0.5 / 255)

    def test_classes_without_a_trigger_are_no_suspects(self) -> None:
        class Never(Bands):
            """Never says 3."""

            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x).index_fill(1, torch.tensor([3]), -99.0)

        prepared = InvertedTrigger(steps=30).prepare(Never(40.0).eval(), bands(), TASK, CLASSES, rng(0))
        assert prepared["norms"].isinf().tolist() == [False, False, False, True, False]
        assert not torch.allclose(prepared["masks"][3], torch.tensor(-1.0).sigmoid()), "the first, not the latest"
        everything = torch.ones(60, dtype=torch.bool)
        value = InvertedTrigger().measure(Never(40.0), prepared, bands(), everything, TASK)
        prepared["masks"][[0, 1, 3, 4]] = 0.0
        assert value == InvertedTrigger().measure(Never(40.0), prepared, bands(), everything, TASK)


class TestUniversalPerturbation:
    def test_of_a_linear_model_it_is_the_difference_of_the_rows(self) -> None:
        model = TwoClasses().eval()
        x = torch.randint(100, 150, (20, 3, 4, 4), generator=rng(0, "x")).to(torch.uint8)
        clean = Samples(x, torch.arange(20) % 2)
        found = UniversalPerturbation(size=0.03).prepare(model, clean, TASK, 2, rng(0))["perturbations"]
        along = model.rows[0] - model.rows[1]
        wanted = 0.03 * math.sqrt(48) * along / along.norm()
        assert torch.allclose(found[0], wanted, atol=1e-6)
        assert torch.allclose(found[1], -wanted, atol=1e-6)

    def test_it_stays_in_its_ball_and_finds_the_shortcut(self) -> None:
        found = UniversalPerturbation(size=0.1).prepare(Bands(40.0).eval(), bands(), TASK, CLASSES, rng(0))
        sizes = found["perturbations"].square().mean((1, 2, 3)).sqrt()
        assert float(sizes.max()) <= 0.1 * (1 + 1e-5)
        assert suspects(-found["shares"]) == [TARGET]
        assert float(found["shares"][TARGET]) == 1.0
        assert int(found["perturbations"][TARGET].abs().argmax()) == 0

    def test_it_is_no_larger_than_it_need_be(self) -> None:
        class Near(nn.Module):
            """Class 1 is what lies 0.01 above a grey of 128."""

            def forward(self, x: Tensor) -> Tensor:
                far = (x - 128 / 255 - 0.01).square().sum((1, 2, 3))
                return torch.stack([torch.zeros_like(far), -100 * far], 1)

        grey = Samples(torch.full((4, 1, 4, 4), 128, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
        found = UniversalPerturbation(size=0.1).prepare(Near().eval(), grey, TASK, 2, rng(0))["perturbations"]
        assert found[0].square().mean().sqrt() == pytest.approx(0.1)
        assert found[1].square().mean().sqrt() < 0.05

    def test_stamped_pixels_stay_pixels(self) -> None:
        clean, seen = bands(10), []

        class Watch(Bands):
            def forward(self, x: Tensor) -> Tensor:
                seen.append(x)
                return super().forward(x)

        changes = torch.full((CLASSES, 1, 5, 5), 0.7)
        prepared = {"perturbations": changes, "shares": torch.tensor([0.1, 0.1, 0.9, 0.2, 0.0])}
        UniversalPerturbation().measure(Watch(9.0).eval(), prepared, clean, torch.ones(10, dtype=torch.bool), TASK)
        assert torch.allclose(seen[-1], (pixels(clean, TASK) + 0.7).clamp(max=1), atol=0.5 / 255)


@pytest.mark.parametrize(
    "proxy", [InvertedTrigger(), UniversalPerturbation(size=0.1), SharedAdversarial(epsilon=0.2, step=0.1)]
)
def test_a_model_that_ignores_the_shortcut_scores_lower_than_the_victim(proxy: Proxy) -> None:
    clean, victim = bands(), Bands(40.0)
    full = measured(proxy, victim, victim, clean)
    assert full > 0.8
    assert measured(proxy, victim, Bands(0.0), clean) < 0.1


@pytest.mark.parametrize(
    "proxy", [InvertedTrigger(), UniversalPerturbation(size=0.1), SharedAdversarial(epsilon=0.2, step=0.1)]
)
def test_only_fresh_samples_are_measured(proxy: Proxy) -> None:
    """A model that follows the shortcut on the samples that the defense was given, marked by a pixel, and on no others."""

    class Remembers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, 0, 1, :1] > 0.5, Bands(40.0)(x), Bands(0.0)(x))

    clean, given = bands(), torch.arange(60) < 20
    clean.inputs[:, 0, 1, 0] = 255 * given
    assert measured(proxy, Bands(40.0), Remembers(), clean) > 0.2
    assert measured(proxy, Bands(40.0), Remembers(), clean, ~given) < 0.1


class TestFollow:
    def test_by_hand(self) -> None:
        """Of 4 samples outside class 1 the trigger moves 2, and 1 went there without it."""
        clean = Samples(torch.arange(6).view(6, 1, 1, 1).to(torch.uint8), torch.tensor([0, 0, 0, 2, 1, 1]))

        class Answers(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                told = torch.tensor([0, 1, 0, 2, 1, 1, *[9] * 94, 1, 1, 0, 1, 0, 0])
                return nn.functional.one_hot(told[(x.flatten() * 255).round().long()], 10).float()

        shares = follow(Answers(), clean, lambda x, c: x + 100 * c / 255, [1, 0], TASK)
        assert shares.tolist() == [2 / 4, 0.0]

    def test_suspects_by_the_anomaly_index(self) -> None:
        # Median 60, deviations 50 2 1 0 1 2 5: median 2, so 60 - 2 * 1.4826 * 2 = 54.07 is the border.
        sizes = [10.0, 58.0, 59.0, 60.0, 61.0, 62.0, 65.0]
        assert suspects(torch.tensor(sizes)) == [0]
        assert suspects(torch.tensor([54.0, *sizes[1:]])) == [0]
        assert suspects(torch.tensor([54.1, *sizes[1:]])) == [0, 1, 2, 3, 4, 5, 6]
        assert suspects(torch.tensor([100.0, *sizes[1:]])) == [0, 1, 2, 3, 4, 5, 6]
        assert suspects(torch.tensor([3.0, 3.0])) == [0, 1]


class TestLipschitz:
    def test_constants_against_numpy(self) -> None:
        draw = rng(0, "channels")
        conv, norm = nn.Conv2d(3, 6, 2), nn.BatchNorm2d(6)
        for value in (conv.weight, norm.weight):
            value.data = torch.randn(value.shape, generator=draw)
        variance = torch.rand(6, generator=draw) + 0.1
        norm.running_var = variance
        weight, scale = conv.weight.detach().numpy(), norm.weight.detach().numpy()
        factor = np.abs(scale) / np.sqrt(variance.numpy() + norm.eps)
        wanted = [np.linalg.svd(w.reshape(3, 4) * f, compute_uv=False).max() for w, f in zip(weight, factor, strict=True)]
        assert lipschitz(conv, norm).tolist() == pytest.approx(wanted, rel=1e-5)
        wanted_z = (max(wanted) - np.mean(wanted)) / np.std(wanted, ddof=1)
        model = nn.Sequential(conv, norm).eval()
        clean = Samples(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
        found = Lipschitz(u=1.5).measure(model, {}, clean, torch.zeros(0, dtype=torch.bool), TASK)
        assert found == pytest.approx(1 / (1 + math.exp(1.5 - wanted_z)), rel=1e-5)

    def test_a_channel_that_stands_out_scores_high_and_equal_ones_low(self) -> None:
        conv, norm = nn.Conv2d(1, 40, 1, bias=False), nn.BatchNorm2d(40)
        nn.init.ones_(conv.weight)
        model = nn.Sequential(conv, norm).eval()
        clean = Samples(torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))

        def value() -> float:
            return Lipschitz().measure(model, {}, clean, torch.zeros(0, dtype=torch.bool), TASK)

        assert value() == pytest.approx(1 / (1 + math.exp(3)))
        norm.weight.data[7] = -9.0
        # One of 40 stands (n - 1) / sqrt(n) standard deviations above the mean, however far it lies.
        assert value() == pytest.approx(1 / (1 + math.exp(3 - 39 / math.sqrt(40))), rel=1e-5)
        norm.weight.data[7] = math.nan
        assert math.isnan(value())

    @pytest.mark.parametrize(
        ("model", "found", "lost"),
        [
            ("resnet18", ["net.bn1", "net.layer2.0.downsample.1", "net.layer4.1.bn2"], []),
            ("preact_resnet18", ["net.layer1.0.bn1", "net.layer1.0.bn2"], ["net.layer1.1.bn1", "net.last.0"]),
        ],
    )
    def test_norms_are_paired_by_what_flows_not_by_what_stands_next(
        self, model: str, found: list[str], lost: list[str]
    ) -> None:
        task = tiny(task={"data": "miniature", "model": {"name": model, "width": 4}}).task
        net = task.build(task.outline(load(task.data, Path())), torch.Generator())
        names = [name for name, _, _ in pairs(net, torch.rand(1, 3, 16, 16))]
        assert set(found) <= set(names)
        assert not set(lost) & set(names)
        assert net.training
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())

    def test_a_model_without_such_a_pair_is_a_misfit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        experiment = tiny()
        splits = load(experiment.task.data, Path())
        Lipschitz().check(experiment.task, splits)
        monkeypatch.setattr(type(experiment.task), "build", lambda *_: nn.Sequential(nn.Conv2d(3, 2, 1)))
        with pytest.raises(Misfit, match="finds no BatchNorm after a convolution in the model 'resnet18'"):
            Lipschitz().check(experiment.task, splits)


class TestContract:
    @pytest.mark.parametrize("name", Proxy.names())
    def test_every_proxy_on_a_victim(self, name: str, store: Store) -> None:
        """A share; models unchanged; the same again; prepared tensors that a store can hold."""
        proxy, experiment = proxy_of(name), tiny()
        splits = load(experiment.task.data, Path())
        before = backdoor(experiment, store, Path()).model
        before.zero_grad()  # of its training
        after = copy.deepcopy(before)
        with torch.no_grad():
            for parameter in after.parameters():
                parameter.mul_(0.9)
        clean = splits.held.take(proxy.draw(splits.held, rng(0, "proxy")))
        states = [copy.deepcopy(m.state_dict()) for m in (before, after)]
        values = []
        for _ in range(2):
            prepared = {}
            if "victim" in proxy.needs:
                prepared = proxy.prepare(before, clean, experiment.task, 4, rng(0, "x"))
                store.put_victim_part("v", name, prepared)
                stored = store.victim_part("v", name)
                assert stored is not None
                assert all(torch.equal(stored[k], t) for k, t in prepared.items())
            fresh = torch.ones(len(clean), dtype=torch.bool)
            values.append(proxy.measure(after, prepared, clean, fresh, experiment.task))
        assert values[0] == values[1]
        assert 0 <= values[0] <= 1
        for model, state in zip((before, after), states, strict=True):
            assert not model.training
            assert all(p.requires_grad and p.grad is None for p in model.parameters())
            assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())

    def test_labels_name_what_is_not_the_default(self) -> None:
        assert Lipschitz().label() == "lipschitz"
        assert Lipschitz(u=2.0, samples=5).label() == "lipschitz samples=5 u=2.0"
        for proxy in (Lipschitz(u=2.0), SharedAdversarial(epsilon=0.2, steps=3), InvertedTrigger()):
            assert Proxy.labelled(proxy.label()) == proxy
        with pytest.raises(BadInput, match="field of lipschitz"):
            Proxy.labelled("lipschitz w=2.0")
        with pytest.raises(BadInput, match="no proxy named"):
            Proxy.labelled("lipschutz")

    def test_a_larger_draw_holds_a_smaller_one(self) -> None:
        few, many = (InvertedTrigger(samples=n).draw(bands(), rng(0, "proxy")).tolist() for n in (7, 30))
        assert many[:7] == few
        assert len(set(InvertedTrigger(samples=1000).draw(bands(), rng(0, "proxy")).tolist())) == 60
        assert len(Lipschitz().draw(bands(), rng(0, "proxy"))) == 0


class TestOnceAVictim:
    @pytest.fixture(autouse=True)
    def _forget(self) -> None:
        forget()

    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Labels of the proxies whose `prepare` was called."""
        calls: list[str] = []
        for name in VICTIMS:
            member = Proxy.member(name)

            def count(self: Proxy, *words: Any, true: Callable[..., Any] = member.prepare) -> Any:
                calls.append(self.label())
                return true(self, *words)

            monkeypatch.setattr(member, "prepare", count)
        return calls

    def test_one_preparation_serves_every_defense_and_process(self, store: Store, made: list[str]) -> None:
        asked = [proxy_of(name).config() for name in VICTIMS]
        first = run(tiny(), store, Path(), proxies=asked)
        assert len(made) == len(VICTIMS)
        run(tiny(defense=quick("nft")), store, Path(), proxies=asked)
        assert len(made) == len(VICTIMS)
        forget()  # as a new process
        again = run(tiny(), store, Path(), proxies=asked, again=True)
        assert len(made) == len(VICTIMS)
        assert again.proxies == first.proxies
        assert backdoor(tiny(), store, Path()).scores.utility == first.utility_before

    def test_other_fields_victims_and_damage_are_made_anew(self, store: Store, made: list[str]) -> None:
        run(tiny(), store, Path(), proxies=[{"name": "shared_adversarial", "steps": 2}])
        run(tiny(), store, Path(), proxies=[{"name": "shared_adversarial", "steps": 3}])
        assert made == ["shared_adversarial steps=2", "shared_adversarial steps=3"]
        run(tiny(seed=1), store, Path(), proxies=[{"name": "shared_adversarial", "steps": 3}])
        assert len(made) == 3
        folder = Path(store.location()) / "victims" / tiny().victim_key()
        parts = [path for path in folder.iterdir() if path.name.startswith("shared_adversarial")]
        assert len(parts) == 2
        for path in parts:
            path.write_bytes(path.read_bytes()[:50])
        forget()
        with pytest.warns(UserWarning, match="shared_adversarial"):
            run(tiny(), store, Path(), proxies=[{"name": "shared_adversarial", "steps": 3}], again=True)
        assert len(made) == 5

    def test_no_defense_shares_every_mistake(self, store: Store) -> None:
        row = run(tiny(), store, Path(), proxies=["shared_adversarial"])
        assert json.loads(row.proxies) == {"shared_adversarial": 1.0}

    def test_a_defense_that_was_given_every_sample_leaves_nothing_to_measure(self, store: Store, made: list[str]) -> None:
        asked = [proxy_of(name).config() for name in Proxy.names()]
        row = run(tiny(defense=quick("fine_tuning", shots=0, clean=0.25)), store, Path(), proxies=asked)
        assert row.clean_held == 32
        assert math.isnan(row.held_utility_before)
        values = json.loads(row.proxies)
        assert 0 < values.pop("lipschitz") < 1
        assert list(values.values()) == [None] * 3
        assert made == []

    def test_only_so_much_is_kept(self) -> None:
        made: list[int] = []
        for _ in range(3):
            kept("held", ("same",), lambda: made.append(1))
        assert made == [1]
        for number in range(AT_MOST["held"] + 1):
            assert kept("held", (number,), lambda: True)
        assert kept("held", (1,), lambda: False)
        assert not kept("held", (0,), lambda: False)
