"""The list of what there is, and one member in full."""

import pytest

from bdray.report.catalogue import CONTRACTS, FOLDERS, _contract, catalogue
from bdray.spec import BadInput


@pytest.fixture(autouse=True)
def pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def test_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = catalogue("defenses").split("\n")
    names = _contract(CONTRACTS["defenses"]).names()
    assert [line.split()[0] for line in lines[1:-2]] == names
    assert "  nft             NFT, neural mask fine-tuning: one multiplier a channel is learnt on clean" in "\n".join(lines)
    monkeypatch.setenv("COLUMNS", "80")
    short = catalogue("defense").split("\n")
    assert [line.split()[0] for line in short[1:-2]] == names
    assert max(map(len, catalogue().split("\n"))) <= 80


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, c in CONTRACTS.items() for n in _contract(c).names()])
@pytest.mark.parametrize("width", ["", "60"])
def test_every_member_in_full(kind: str, name: str, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    text, member = catalogue(kind, name), _contract(CONTRACTS[kind]).member(name)
    for field in member.model_fields:
        assert f"\n  {field}: " in text
    for preset in member.presets:
        assert f"\n  {preset}: " in text
    if width:
        assert max(map(len, text.split("\n"))) <= 60


def test_nft_in_full() -> None:
    text = catalogue("defense", "nft")
    assert "\n  alpha: a number, at least 0 and at most 1; default 0.8\n      The floor of mask l is" in text
    assert '\n  bn: one of train, eval, recalibrate; default "train"\n      train: batch statistics' in text
    assert "\n  shots: a whole number, at least 0; default 0\n      Clean samples per class" in text
    assert "one multiplier a channel is learnt on clean" in text
    assert "fields, as defense.FIELD=VALUE" in text
    assert "  remedy: " in catalogue("defenses", "advrbd")
    assert "fields, as task.data.FIELD=VALUE" in catalogue("data", "cifar10")
    assert "\n  epochs: a whole number, at least 1; default 20" in catalogue("training")
    assert "The demo: digits" in catalogue("sweep", "demo")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("atacks",), "no kind named 'atacks'; did you mean 'attacks'"),
        (("defense", "nftt"), "no defense named 'nftt'; did you mean 'nft'"),
        (("sweep", "dmo"), "no sweep named 'dmo'; did you mean 'demo'"),
        (("training", "lr"), "got 'lr' after training"),
    ],
)
def test_typos(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        catalogue(*words)


def test_every_folder_has_its_contract() -> None:
    assert CONTRACTS.keys() == FOLDERS.keys()
