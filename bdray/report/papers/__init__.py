"""What papers have published: their tables of accuracy and attack success rate as CSV beside this file, in percent and with the
digits that were printed.

Names are ours where we have the thing (PhysicalBA is `physical`, CLB `label_consistent`) and the paper's in snake_case where
we do not. A cell without poison has the attack `none`. The averages that papers print are left out: they are no experiment,
and several do not follow from their own rows.
"""

import csv
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

from bdray.overrides import parse
from bdray.spec import BadInput, Config, unknown


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One experiment as published."""

    table: str
    """Its number; several where it is printed again."""
    data: str
    model: str
    attack: str
    rate: float
    """As the paper counts it."""
    defense: str
    setting: Config
    """Fields that the defense must have."""
    accuracy: str
    """On clean test samples, percent."""
    asr: str
    """Percent."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where the numbers are from, and what they were measured on."""

    name: str
    title: str
    arxiv: str
    tables: str
    tests: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each data set the test samples before and after a defense, for accuracy and ASR alike; empty where unknown."""
    drops_target: bool = False
    """The accuracy after a defense leaves out the target class, which the accuracy before does not."""
    own: dict[str, Config] = field(default_factory=dict)
    """By defense, the value at which a field that is ours leaves it as published."""
    notes: tuple[str, ...] = ()
    """What else differs from how we measure."""

    def cells(self) -> list[Cell]:
        """Every published experiment once, in the order of the tables."""
        found: dict[tuple[str, ...], Cell] = {}
        for row in csv.DictReader((files(__name__) / f"{self.name}.csv").read_text(encoding="utf-8").splitlines()):
            key = tuple(row[name] for name in ("data", "model", "attack", "rate", "defense", "setting"))
            if key in found:
                found[key] = replace(found[key], table=f"{found[key].table} {row['table']}")
            else:
                values: dict[str, Any] = {**row, "rate": float(row["rate"]), "setting": dict(parse(row["setting"].split()))}
                found[key] = Cell(**values)
        return list(found.values())


ADVRBD = Paper(
    name="advrbd",
    title="AdvrBD: How to Train a Backdoor-Robust Model on a Poisoned Dataset without Auxiliary Data?",
    arxiv="2405.12719v1",
    tables="Tables II to VII",
    # Not stated in the paper: its Tables II and III are fractions of these before a defense without exception, and nearly all
    # of them after it. After it they are the samples outside the target class.
    tests={"imagenette": (1000, 361), "cifar10": (1000, 910), "cifar100": (1000, 988), "tiny_imagenet": (2000, 1987)},
    drops_target=True,
    own={"advrbd": {"balanced": False, "relearn_rate": 1.0}},
    notes=(
        "the paper gives no seeds and no spread; its target class is 1",
        "its PhysicalBA transforms clean images too, ours the poisoned ones alone, whose black edges help to tell them",
        "attacks are matched by name and rate, not by their other fields",
        "its pictures are Hello Kitty and Firefox, ours are drawn unless a file is given",
        "its ASR before counts samples of the target class too, and TaCT's counts every class, ours only the source class",
    ),
)
NFT = Paper(
    name="nft",
    title="NFT: Augmented Neural Fine-Tuning for Efficient Backdoor Purification",
    arxiv="2407.10052",
    tables="Table 1",
    notes=(
        "the paper's table gives no seeds, no spread and no number of test samples; its target class is 0",
        "its rate is of the samples outside the target class, ours of all; its code poisons about 0.01 of all for SIG and CLB",
    ),
)
PAPERS = {paper.name: paper for paper in (ADVRBD, NFT)}

WIDTHS = {"resnet18": 64, "resnet34": 64, "preact_resnet18": 64, "mobilenet_v2": 32}
"""As published."""
TRAINING_SAMPLES = {"cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000, "imagenette": 9_469}
"""As published."""


def paper(name: str) -> Paper:
    """The paper of a name. Raises BadInput with the nearest one where there is none."""
    if name not in PAPERS:
        raise BadInput(unknown("paper", name, PAPERS))
    return PAPERS[name]
