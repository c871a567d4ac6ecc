"""CLP against bounds computed by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdray.defenses import Evidence
from bdray.defenses.clp import Clp, prunable, sites
from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.spec import Incompatible
from bdray.task import Task
from bdray.training import silent

TASK = Task.of({"name": "image", "data": "miniature"})


def splits(channels: int) -> Splits:
    nothing = Samples(torch.empty(0, channels, 8, 8, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    return Splits(nothing, nothing, nothing, ["a", "b"])


def two_channels() -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Kernels with the largest singular values 3 and 2; BatchNorm factors -2 / 2 and 5 / 1: bounds 3 and 10."""
    conv, norm = nn.Conv2d(2, 2, (1, 2), bias=False), nn.BatchNorm2d(2)
    conv.weight.data = torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]], [[[0.0, 2.0]], [[0.0, 0.0]]]])
    norm.weight.data, norm.bias.data = torch.tensor([-2.0, 5.0]), torch.tensor([0.3, 0.7])
    norm.running_mean, norm.running_var = torch.tensor([0.1, 0.2]), torch.tensor([4.0, 1.0]) - norm.eps
    return conv.eval(), norm.eval()


def prune(model: nn.Module, channels: int, **fields: Any) -> tuple[list[dict], dict[str, float]]:
    """Prunes in place; the table's rows and the report."""
    told: dict[str, float] = {}
    evidence = Evidence(model=model, outline=TASK.outline(splits(channels)))
    out = Clp(**fields).defend(evidence, TASK, rng(0), lambda step, **metrics: told.update(metrics))
    return out.tables["pruned"].to_pylist(), told


def test_two_channels_by_hand() -> None:
    """Of the bounds 3 and 10 the mean is 6.5 and the standard deviation 7 / sqrt(2): 0.7 of it reaches 9.96, 0.75 reaches
    10.21."""
    conv, norm = two_channels()
    rows, told = prune(nn.Sequential(conv, norm), 2, u=0.7)
    assert len(rows) == 1
    assert (rows[0]["layer"], rows[0]["channel"]) == ("1", 1)
    assert rows[0]["bound"] == pytest.approx(10, rel=1e-6)
    assert rows[0]["threshold"] == pytest.approx(6.5 + 0.7 * 7 / 2**0.5, rel=1e-6)
    assert told == {"pruned": 1, "channels": 2}
    assert norm.weight.tolist() == [-2, 0]
    assert norm.bias.tolist() == pytest.approx([0.3, 0])
    x = torch.rand(3, 2, 8, 8, generator=rng(0))
    after, before = norm(conv(x)), nn.Sequential(*two_channels())(x)
    assert torch.equal(after[:, 0], before[:, 0])
    assert before[:, 1].any()
    assert not after[:, 1].any()


def test_a_higher_u_spares_it() -> None:
    conv, norm = two_channels()
    assert prune(nn.Sequential(conv, norm), 2, u=0.75) == ([], {"pruned": 0, "channels": 2})
    assert norm.weight.tolist() == [-2, 5]


@pytest.mark.parametrize(("count", "pruned"), [(10, 0), (11, 1)])
def test_three_standard_deviations_are_out_of_reach_of_a_narrow_layer(count: int, pruned: int) -> None:
    conv, norm = nn.Conv2d(1, count, 1, bias=False), nn.BatchNorm2d(count)
    nn.init.ones_(conv.weight)
    norm.weight.data[4] = 1e4
    rows, _ = prune(nn.Sequential(conv, norm).eval(), 1)
    assert [row["channel"] for row in rows] == [4] * pruned


def test_equal_channels_are_spared_even_at_the_mean() -> None:
    conv, norm = nn.Conv2d(1, 7, 1, bias=False), nn.BatchNorm2d(7)
    nn.init.constant_(conv.weight, 0.1)
    assert prune(nn.Sequential(conv, norm).eval(), 1, u=0.0)[0] == []


class Norms(nn.Module):
    """A BatchNorm after a convolution, one that cannot be switched off, one before a convolution, and one channel alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.after = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.fixed = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)
        self.before, self.last, self.one = nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1), nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fixed(self.second(self.after(self.first(x)).relu()))
        return self.one(self.last(self.before(x.relu())))


def test_which_norms_it_looks_at() -> None:
    assert [name for name, _, _ in sites(Norms(), TASK, TASK.outline(splits(3)))] == ["after", "one"]
    _, told = prune(Norms().eval(), 3)
    assert told["channels"] == 5


def test_a_model_without_such_a_pair_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Clp().check(TASK, TASK.outline(splits(3)), splits(3))
    prunable.cache_clear()
    monkeypatch.setattr(type(TASK), "build", lambda *_: nn.Sequential(nn.Conv2d(3, 2, 1)))
    with pytest.raises(Incompatible, match="finds no BatchNorm after a convolution in the model 'resnet18'"):
        Clp().check(TASK, TASK.outline(splits(3)), splits(3))
    prunable.cache_clear()


def test_nothing_but_the_model_is_needed() -> None:
    model = TASK.build(TASK.outline(splits(3)), rng(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evidence = Evidence(model=model, outline=TASK.outline(splits(3)))
    out = Clp(u=1.0).defend(evidence, TASK, rng(0), silent)
    changed = {name for name, value in out.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert all(name.rpartition(".")[0] in norms and name.endswith((".weight", ".bias")) for name in changed)
