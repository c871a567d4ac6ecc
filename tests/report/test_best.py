"""The best settings of a sweep, against tables made by hand."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bdray.__main__ import main
from bdray.report import best
from bdray.report.objective import Objective
from bdray.spec import BadInput
from bdray.store.row import Row, to_table
from bdray.store.store import Store
from bdray.store.trials import Trial
from tests.report.test_table import make_row
from tests.tiny import quick, tiny

AIM = Objective(proxy="lipschitz")
TABLE = {
    # lr: (attack, utility after, ASR after, held after, proxy)
    0.1: [("badnets", 0.90, 0.10, 0.80, 0.5), ("blend", 0.88, 0.30, 0.78, 0.3)],
    0.2: [("badnets", 0.89, 0.60, 0.80, 0.1), ("blend", 0.89, 0.40, 0.80, 0.1)],
    0.3: [("badnets", 0.70, 0.00, 0.60, 0.0), ("blend", 0.70, 0.00, 0.60, 0.0)],
    0.4: [("badnets", 0.90, 0.00, 0.80, 0.0)],  # stopped early
}


def rows() -> list[Row]:
    return [
        make_row(
            {"attack": attack, "defense": quick("nft", lr=lr)},
            utility_before=0.9,
            utility_after=utility,
            asr_after=asr,
            held_utility_before=0.8,
            held_utility_after=held,
            proxies=f'{{"lipschitz": {proxy}}}',
        )
        for lr, panel in TABLE.items()
        for attack, utility, asr, held, proxy in panel
    ]


def ranked(aim: Objective = AIM, trials: Any = ()) -> best.Best:
    return best.best(to_table(rows()).to_pylist(), trials, aim)


def test_rows_from_before_a_field_are_of_the_same_setting() -> None:
    """`isolate` came later: the stored spec of the older row lacks it, that of the newer one spells its first value out."""
    found = []
    for attack in ("badnets", "blend"):
        experiment = tiny(attack=attack, defense=quick("advrbd"))
        config = experiment.config()
        if attack == "badnets":
            config["defense"] = {k: v for k, v in config["defense"].items() if k not in ("isolate", "unlearn_by")}
        spec = {"spec": json.dumps(config), "key": experiment.key(), "victim": experiment.victim_key()}
        found.append(make_row({"attack": attack, "defense": quick("advrbd")}, utility_before=0.9, kept_agreement=0.5, **spec))
    records = best.best(to_table(found).to_pylist(), (), Objective(kind="oracle"))
    assert [record["n"] for record in records.settings] == [2]


def names(found: best.Best) -> list[str]:
    return [record["setting"] for record in found.settings]


def test_ranks_and_scores_by_hand() -> None:
    found = ranked()
    assert names(found) == ["nft lr=0.2", "nft lr=0.1", "nft lr=0.3"]
    assert found.incomplete == 1
    first, second, third = found.settings
    assert (first["rank"], first["n"]) == (1, 2)
    assert first["defender_mean"] == pytest.approx(0.9)
    assert first["oracle_mean"] == pytest.approx(0.5)
    assert first["oracle_worst"] == pytest.approx(0.4)
    assert first["asr_worst"] == pytest.approx(0.6)
    assert (second["defender_mean"], second["defender_worst"]) == (pytest.approx(0.6), pytest.approx(0.5))
    assert third["defender_mean"] == pytest.approx(-0.15)  # 20 points lost, 15 more than the budget
    assert [record["front"] for record in found.settings] == [True, False, True]


@pytest.mark.parametrize(
    ("aim", "order"),
    [
        (Objective(kind="oracle", proxy="lipschitz"), ["0.1", "0.2", "0.3"]),
        (Objective(kind="oracle", proxy="lipschitz", judge="worst"), ["0.1", "0.2", "0.3"]),
        (Objective(kind="oracle", proxy="lipschitz", budget=0.25), ["0.3", "0.1", "0.2"]),
        (Objective(proxy="lipschitz", budget=0.0), ["0.2", "0.1", "0.3"]),
    ],
)
def test_other_objectives(aim: Objective, order: list[str]) -> None:
    assert [name.rpartition("=")[2] for name in names(ranked(aim))] == order


def test_a_search_ranks_what_its_trials_finished() -> None:
    cells = [row.key for row in rows()]
    fields: dict[str, Any] = {"sweep": "s", "steps": 2, "objective": AIM.label, "setting": {}}
    trials = [
        Trial(key="a", state="finished", cells=cells[:2], **fields),
        Trial(key="b", state="stopped", cells=cells[2:4], **fields),
        Trial(key="c", state="running", cells=cells[4:6], **fields),
    ]
    found = ranked(trials=trials)
    assert (len(found.settings), found.incomplete) == (1, 2)
    assert found.settings[0]["oracle_mean"] == pytest.approx(0.8)
    with pytest.raises(BadInput, match="no setting was judged on every victim"):
        ranked(trials=trials[1:])


def test_forms() -> None:
    text = best.render(ranked(), 2, "text")
    assert "ORACLE" not in text
    assert "1 not judged on every victim" in text
    assert "lr=0.3" not in text
    assert (
        best.render(ranked(Objective(kind="oracle", proxy="lipschitz")), 2, "text").count("ORACLE: ranked by the true ASR") == 1
    )
    lines = list(csv.DictReader(io.StringIO(best.render(ranked(), 9, "csv"))))
    assert [line["rank"] for line in lines] == ["1", "2", "3"]
    assert float(lines[1]["defender_mean"]) == pytest.approx(0.6, abs=1e-15)
    assert best.render(ranked(), 9, "markdown").count("\n|") == 5


def test_settings_are_numbered_as_in_the_table() -> None:
    """By the values of their fields, whatever their rank; the legend has those that are shown."""
    text = best.render(ranked(), 2, "text")
    assert [line.split()[:3] for line in text.splitlines()[4:6]] == [["1", "nft", "#2"], ["2", "nft", "#1"]]
    assert "nft #1: lr=0.1\nnft #2: lr=0.2" in text
    assert "nft #3" not in text
    found = best.leave_out(to_table(rows()).to_pylist(), (), Objective(kind="oracle", budget=0.25), "attack")
    text = best.render_left_out(found, Objective(kind="oracle", budget=0.25), "attack", "text")
    assert text.count("nft #3") == 3  # the setting that is best on either attack, and the legend
    assert text.endswith("nft #3: lr=0.3")
    (line, *_) = csv.DictReader(io.StringIO(best.render(ranked(), 9, "csv")))
    assert line["setting"] == "nft lr=0.2"


FILTERS = {
    # partition rate: (attack, ASR after, kept, flagged)
    0.1: [("badnets", 0.2, 0.9, 0.3), ("blend", 0.2, 0.7, 0.3)],
    0.2: [("badnets", 0.9, 0.9, 0.1), ("blend", 0.9, 0.9, 0.1)],
    0.3: [("badnets", 0.1, 0.99, 1.0), ("blend", 0.1, 0.99, 1.0)],  # nothing flagged
}


def filters() -> list[dict[str, Any]]:
    found = [
        make_row(
            {"attack": attack, "defense": quick("advrbd", partition_rate=rate)},
            asr_after=asr,
            kept_agreement=kept,
            flagged_agreement=flagged,
        )
        for rate, panel in FILTERS.items()
        for attack, asr, kept, flagged in panel
    ]
    return to_table(found).to_pylist()


def test_the_training_set_ranks_without_clean_data() -> None:
    aim = Objective(kind="training")
    found = best.best(filters(), (), aim)
    assert names(found) == [f"advrbd partition_rate={rate}" for rate in (0.2, 0.1, 0.3)]
    first, second, third = found.settings
    assert (first["training_mean"], first["training_worst"]) == (pytest.approx(0.8), pytest.approx(0.8))
    assert (second["training_mean"], second["training_worst"]) == (pytest.approx(0.5), pytest.approx(0.4))
    assert third["training_mean"] == pytest.approx(-0.01)
    assert (second["kept_agreement"], second["flagged_agreement"]) == (pytest.approx(0.8), pytest.approx(0.3))
    assert third["flagged_agreement"] == 1
    assert [record["front"] for record in found.settings] == [True, False, True]
    text = best.render(found, 9, "text")
    assert "no clean data" in text
    assert "budget" not in text
    assert "ORACLE" not in text
    assert " training " in text
    assert " defender " not in text  # no row has a proxy
    assert best.best(filters(), (), Objective(kind="oracle", budget=0.2)).settings[0]["setting"].endswith("=0.3")


def leaving(rows: list[Row], **fields: Any) -> dict[str, dict[str, Any]]:
    found = best.leave_out(to_table(rows).to_pylist(), (), Objective(kind="oracle", **fields), "attack")
    return {record["left_out"]: record for record in found}


def test_leave_out_by_hand() -> None:
    """Setting 0.1 is best on badnets and worst on blend, 0.2 the other way round, 0.3 second on both."""
    asr = {0.1: (0.0, 0.9), 0.2: (0.8, 0.1), 0.3: (0.3, 0.2)}
    rows = [
        make_row({"attack": attack, "defense": quick("nft", lr=lr)}, utility_after=0.9, asr_after=value)
        for lr, values in asr.items()
        for attack, value in zip(("badnets", "blend"), values, strict=True)
    ]
    found = leaving(rows)
    assert found["badnets"]["setting"] == "nft lr=0.2"  # the best on blend
    assert (found["badnets"]["chosen_by"], found["badnets"]["asr_after"]) == (pytest.approx(0.9), 0.8)
    assert (found["badnets"]["rank"], found["badnets"]["of"], found["badnets"]["lowest_asr"]) == (3, 3, 0.0)
    assert (found["blend"]["setting"], found["blend"]["asr_after"]) == ("nft lr=0.1", 0.9)
    with pytest.raises(BadInput, match="have one value of it, blend, expected at least two"):
        leaving([row for row in rows if row.attack == "blend"])
    with pytest.raises(BadInput, match=r"no field of these victims named 'atack'"):
        best.leave_out(to_table(rows).to_pylist(), (), Objective(kind="oracle"), "atack")
    lines = list(csv.DictReader(io.StringIO(best.render_left_out(list(found.values()), AIM, "attack", "csv"))))
    assert tuple(lines[0]) == best.LEFT_OUT


def test_what_is_left_out_comes_in_the_order_of_numbers() -> None:
    rows = [make_row({"seed": seed, "defense": quick("nft", lr=lr)}, asr_after=lr) for seed in (10, 2) for lr in (0.1, 0.2)]
    found = best.leave_out(to_table(rows).to_pylist(), (), Objective(kind="oracle"), "seed")
    assert [record["left_out"] for record in found] == ["2", "10"]


def test_victims_that_did_not_plant_are_left_out_and_said() -> None:
    rows = [
        make_row({"attack": attack, "defense": quick("nft", lr=lr)}, utility_after=0.9, asr_before=before, asr_after=lr)
        for lr in (0.1, 0.2)
        for attack, before in (("badnets", 1.0), ("wanet", 0.1))
    ]
    found = best.best(to_table(rows).to_pylist(), (), Objective(kind="oracle"))
    assert [(record["n"], record["victims"]) for record in found.settings] == [(1, 1), (1, 1)]
    text = best.render(found, 9, "text")
    assert "left out: 1 of 2 victims did not plant (ASR before below 50 %): wanet" in text
    with pytest.raises(BadInput, match=r"no victim of the sweep planted: the highest ASR before a defense is 10.0 %"):
        best.best(to_table(rows[1::2]).to_pylist(), (), Objective(kind="oracle"))


def test_the_clean_data_of_the_choice_is_said() -> None:
    made = [
        make_row(
            {"defense": quick("nft", lr=lr)},
            proxies='{"lipschitz": 0.5}',
            held_utility_before=0.8,
            held_utility_after=0.8,
            clean_held=120,
            clean_judged=1213,
        )
        for lr in (0.1, 0.2)
    ]
    text = best.render(best.best(to_table(made).to_pylist(), (), AIM), 9, "text")
    assert "clean data: 120 samples for the defense, and 1213 more, which it does not declare, to choose by" in text
    assert "2 of 2 rows are of a version that looked at no single class" in text
    assert "clean data" not in best.render(
        best.best(to_table(made).to_pylist(), (), Objective(kind="oracle", budget=0.2)), 9, "text"
    )


def test_columns_that_no_setting_has_are_only_in_the_csv() -> None:
    assert "training" not in best.render(ranked(), 9, "text")
    (line, *_) = csv.DictReader(io.StringIO(best.render(ranked(), 9, "csv")))
    assert (line["training_mean"], line["kept_agreement"], line["flagged_agreement"]) == ("", "", "")


@pytest.mark.parametrize(("kind", "cure"), [("defender", "training or oracle"), ("training", "defender or oracle")])
def test_what_cannot_be_ranked_is_told(kind: str, cure: str) -> None:
    found = filters() if kind == "defender" else to_table(rows()).to_pylist()
    with pytest.raises(BadInput, match=f"no setting can be ranked by {kind}.*rank by {cure} with --by"):
        best.best(found, (), Objective(kind=kind, proxy="lipschitz", budget=0.2))


def test_without_proxies_the_oracle_still_ranks() -> None:
    plain = [make_row({"defense": quick("nft", lr=lr)}, asr_after=lr) for lr in (0.3, 0.1)]
    found = best.best(to_table(plain).to_pylist(), (), Objective(kind="oracle", budget=0.2))
    assert names(found) == ["nft lr=0.1", "nft lr=0.3"]
    assert found.settings[0]["defender_mean"] is None
    best.render(found, 9, "text")


def test_picture(tmp_path: Path) -> None:
    best.draw(ranked(), tmp_path / "new" / "front.png")
    with Image.open(tmp_path / "new" / "front.png") as picture:
        assert picture.size > (800, 300)
    with pytest.raises(BadInput, match=r"front\.txt"):
        best.draw(ranked(), tmp_path / "front.txt")


def test_picture_of_the_training_set(tmp_path: Path) -> None:
    """Two panels: no proxy was measured."""
    best.draw(best.best(filters(), (), Objective(kind="training")), tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as picture:
        assert 1200 < picture.width < 1400


def test_a_grid_without_proxies_is_ranked_by_the_oracle_and_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for lr in (0.3, 0.1):
        store.put_row(make_row({"defense": quick("nft", lr=lr)}, asr_after=lr))
    assert main(["best", "s", "--store", store.uri]) == 0
    out, err = capsys.readouterr()
    assert "ORACLE: ranked by the true ASR" in out
    assert err.startswith("warning: no row has the proxy 'inverted_trigger', which a defender needs; ranked by the oracle")
    assert main(["best", "s", "--store", store.uri, "--by", "defender"]) == 2
    assert "no setting can be ranked by defender" in capsys.readouterr().err


def test_no_two_heads_are_alike() -> None:
    assert len(set(best.HEADS.values())) == len(best.HEADS)
