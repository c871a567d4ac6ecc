"""A model that diverged is no result: argmax takes NaN for class 0, and no score would say so."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdray.__main__ import main
from bdray.bench import load
from bdray.defenses import Defended, Evidence
from bdray.defenses._isolation import losses
from bdray.defenses._partition import Perturbation, divergences
from bdray.defenses.clp import Clp
from bdray.defenses.dbr import Dbr
from bdray.defenses.none import NoDefense
from bdray.layers.finite import check_answers, check_finite, is_finite
from bdray.proxies import Proxy
from bdray.report import best
from bdray.report.objective import Objective
from bdray.run import run
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.store.store import Store
from bdray.training import Training, fit, silent
from bdray.victim import backdoor
from tests.test_training import Kept
from tests.tiny import tiny

TASK = tiny().task
NAN, INF = math.nan, math.inf


class Answers(nn.Module):
    """Gives every sample these logits."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * torch.tensor(self.logits).expand(len(x), -1)


# What is looked at


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["weight", "bias", "running_var", "running_mean"])
def test_one_value_of_any_weight_or_statistic_is_enough(where: str, value: float) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    check_finite(model, "it", "")
    getattr(model[1], where).data[1] = value
    with pytest.raises(FloatingPointError, match=r"weights or statistics are no longer finite after epoch 3; lower the lr"):
        check_finite(model, "epoch 3", "lower the lr")


def test_half_precision_ends_at_65504() -> None:
    model = nn.Linear(2, 2)
    model.weight.data.fill_(70_000.0)
    assert is_finite(model)
    assert not is_finite(model.half())
    assert is_finite(nn.Linear(2, 2).bfloat16())
    assert is_finite(nn.ReLU())


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_prediction_of_no_number_is_told_with_how_many(bad: float) -> None:
    samples = load(TASK.data, Path()).test
    assert TASK.predict(Answers(0.0, 1.0, 0.0, 0.0), samples).tolist() == [1] * 80
    with pytest.raises(FloatingPointError, match="80 of 80 answers of the model are not finite"):
        TASK.predict(Answers(0.0, bad, 0.0, 0.0), samples)
    with pytest.raises(FloatingPointError, match="1 of 3 things are not finite"):
        check_answers(torch.tensor([True, False, True]), "things")
    assert len(TASK.predict(Answers(0.0, bad), samples.take(torch.arange(0)))) == 0


# Trainings


def test_weights_lost_in_the_last_step_are_told_and_not_kept() -> None:
    """The loss before the step was finite, and there is no loss after it."""
    splits, kept = load(TASK.data, Path()), Kept()
    recipe = Training(epochs=1, batch=len(splits.train), weight_decay=1e30, lr=1e10)
    model = TASK.build(TASK.outline(splits), rng(0))
    with pytest.raises(FloatingPointError, match=r"after epoch 1; lower the lr \(1e\+10\) or the weight decay \(1e\+30\)"):
        fit(model, splits.train, TASK, recipe, 0, checkpoint=kept)
    assert kept.epochs == []


def test_a_checkpoint_that_was_kept_diverged_is_not_gone_on_from() -> None:
    splits, kept = load(TASK.data, Path()), Kept()
    recipe = Training(epochs=1, batch=64)
    fit(TASK.build(TASK.outline(splits), rng(0)), splits.train, TASK, recipe, 0, checkpoint=kept)
    kept.tensors["model.net.bn1.running_var"][0] = INF
    with pytest.raises(FloatingPointError, match="no longer finite after epoch 1"):
        fit(TASK.build(TASK.outline(splits), rng(0)), splits.train, TASK, recipe, 0, checkpoint=kept)


DIGITS = ["task.data=digits", "task.data.limit=200", "task.data.test_limit=100", "task.model.width=4", "training.epochs=1"]


@pytest.mark.parametrize("words", [["training.lr=1e30", "training.batch=256"], ["training.weight_decay=1e30"]])
def test_a_victim_that_diverged_is_a_failed_row_and_no_victim(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(tmp_path / "s"), "--data", str(tmp_path)]
    status = main(["run", *where, *DIGITS, "attack=badnets", "attack.target=1", "defense=none", *words])
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("bdray: the victim diverged: ")
    store = Store(str(tmp_path / "s"))
    (row,) = store.rows().to_pylist()
    assert (row["status"], row["error"]) == ("failed", f"FloatingPointError: {err.removeprefix('bdray: ').strip()}")
    assert store.victim_about(row["victim"]) is None


def test_a_victim_that_an_older_version_stored_diverged_is_not_used(store: Store) -> None:
    victim = backdoor(tiny(), store, Path())
    key, found = tiny().victim_key(), store.victim(tiny().victim_key())
    assert found is not None
    parts, about = found
    parts["model"]["net.bn1.weight"][:] = NAN
    store.put_victim(key, parts, {**about, "scores": vars(victim.scores)})
    with pytest.raises(FloatingPointError, match=f"the stored victim {key} diverged: .* after its training; lower training.lr"):
        run(tiny(), store, Path())
    row = store.row(tiny().key())
    assert row is not None
    assert row["status"] == "failed"


# Defenses


def spoilt(change: Callable[[nn.Module], None]) -> Callable[..., Defended]:
    def defend(self: Any, evidence: Evidence, *_: Any) -> Defended:
        assert evidence.model is not None
        with torch.no_grad():
            change(evidence.model)
        return Defended(evidence.model)

    return defend


def interrupted(model: nn.Module) -> None:
    raise FloatingPointError("the loss is nan; lower the lr")


SPOILT: dict[str, tuple[Callable[[Any], None], str]] = {
    "a weight": (lambda model: model.net.conv1.weight[0].fill_(NAN), "no longer finite after it"),
    "a statistic": (lambda model: model.net.bn1.running_var[0].fill_(INF), "no longer finite after it"),
    "the logits": (lambda model: model.net.fc.weight.fill_(3e38), "80 of 80 answers of the model are not finite"),
    "its training": (interrupted, "the loss is nan; lower the lr"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_defense_that_diverged_is_a_failed_row(what: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    change, told = SPOILT[what]
    monkeypatch.setattr(NoDefense, "defend", spoilt(change))
    with pytest.raises(FloatingPointError, match=rf"the defense 'none' diverged: .*{told}"):
        run(tiny(), store, Path(), proxies=["lipschitz"])
    row = store.row(tiny().key())
    assert row is not None
    assert (row["status"], row["asr_after"], row["proxies"]) == ("failed", None, "")
    assert "diverged" in row["error"]
    with pytest.raises(BadInput, match="no setting was judged on every victim"):
        best.best([row], [], Objective(kind="oracle"))


def test_what_tells_samples_apart_has_to_be_a_number() -> None:
    """The lowest, highest or largest of NaNs is any."""
    splits, model = load(TASK.data, Path()), TASK.build(TASK.outline(load(TASK.data, Path())), rng(0))
    part = splits.train.take(torch.arange(20))
    model.net.conv1.weight.data.fill_(NAN)  # type: ignore[union-attr, operator]
    how = Perturbation(2, 0.1, 1, 0.1, "kl")
    with pytest.raises(FloatingPointError, match="20 of 20 losses of the samples are not finite"):
        losses(model, part, TASK)
    with pytest.raises(FloatingPointError, match="20 of 20 changes of the samples' features are not finite"):
        Dbr().sensitivity(model, part, TASK, rng(0))
    with pytest.raises(FloatingPointError, match="20 of 20 divergences of the samples are not finite"):
        divergences(model, part, TASK, how, rng(0))
    model.net.conv1.weight.data.fill_(1.0)  # type: ignore[union-attr, operator]
    model.net.bn1.weight.data.fill_(INF)  # type: ignore[union-attr, operator]
    evidence = Evidence(model=model, outline=TASK.outline(splits))
    with pytest.raises(FloatingPointError, match=r"of 4 bounds of the channels of net\.bn1 are not finite"):
        Clp().defend(evidence, TASK, rng(0), silent)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_proxy_of_no_number_is_null_in_valid_json(value: float, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Proxy.member("lipschitz"), "measure", lambda *_: value)
    assert run(tiny(), store, Path(), proxies=["lipschitz"]).proxies == '{"lipschitz": null}'
