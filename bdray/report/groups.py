"""Groups: the rows of one experiment over its seeds, those whose victim did not plant apart from the others; what their means
rest on, and what speaks against them. Imports no torch."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bdray.judge.validity import (
    CLASS_LOST,
    FEW,
    NOT_PLANTED,
    ROUNDING,
    SEPARATED,
    UNSEPARATED,
    USUAL,
    UTILITY_LOST,
    Bounds,
    deviation,
    interval,
    mean,
)
from bdray.spec import Config, key_of

SCORES = (
    "utility_before",
    "utility_after",
    "asr_before",
    "asr_after",
    "der",
    "recovery_after",
    "target_utility_after",
    "held_utility_after",
    "flag_recall",
    "false_alarm",
    "target_false_alarm",
)
FALLS = ["asr_before", "asr_after", "utility_before", "utility_after"]
"""What the DER is made of."""
COUNTED = {
    "utility_before": "clean_tests",
    "utility_after": "clean_tests",
    "asr_before": "triggered_tests",
    "asr_after": "triggered_tests",
}
"""Shares of so many tests: those that have a binomial interval."""
LABELS = ("victim", "attack", "defense")
FLAGS = {"class_lost": CLASS_LOST, "utility_lost": UTILITY_LOST, "unseparated": UNSEPARATED}
"""Columns that are made here, and the flags that they are shown as."""
ABOUT = ("planted", "victims", "n", *FLAGS, "clean_tests", "triggered_tests")
COLUMNS = (
    *LABELS,
    *ABOUT,
    *(
        column
        for name in (*SCORES, "seconds")
        for column in (
            name,
            *(f"{name}_{end}" for end in ("spread", "least", "most")),
            *(f"{name}_{end}" for end in ("low", "high") if name in COUNTED),
        )
    ),
)
"""Of the CSV. `n`: rows, of so many `victims`; `class_lost`, `utility_lost` and `unseparated`: how many of these rows are so;
the counts of tests are the least of any row. Of each score: the mean over the victims, of each of which the seeds of the
defense are averaged first; `_spread`, the sample standard deviation over the victims, from three on; `_least` and `_most` of
any row; `_low` and `_high`, the 95 % interval of the mean at that number of tests."""


def flat(config: Config, path: str = "") -> dict[str, Any]:
    """The dict with dotted paths as keys: {"attack": {"name": "sig"}} -> {"attack": "sig"}."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        here = path if key == "name" and path else f"{path}.{key}" if path else key
        out |= flat(value, here) if isinstance(value, dict) else {here: value}
    return out


def identity(row: Mapping[str, Any]) -> Config:
    """What tells a row's experiment from others: rows of two versions of bdray show one setting."""
    config: Config = json.loads(row["spec"])
    return config if key_of(config) == row["key"] else _without_later(config)


def mixed(rows: pa.Table) -> list[str]:
    """A sentence for each data set whose files were others for some of these rows than for the rest: means over them mean
    nothing."""
    columns = (rows[name].to_pylist() for name in ("data", "data_digest", "spec"))
    known = [row for row in zip(*columns, strict=True) if row[1]]
    pairs = Counter(name for name, _ in {(name, digest) for name, digest, _ in known})
    made: dict[str, Counter[str]] = {}
    for name, digest, spec in known:
        if pairs[name] > 1:  # for other fields, such as limit, or for other files
            data = {
                field: value for field, value in json.loads(spec)["task"]["data"].items() if field != "cache"
            }  # no data of its own
            made.setdefault(json.dumps(data, sort_keys=True), Counter())[digest] += 1
    changed = {data: sorted(digests.values(), reverse=True) for data, digests in made.items() if len(digests) > 1}
    return [
        f"the data set {json.loads(data)['name']!r} was changed between the rows: {' and '.join(map(str, counts))} rows are of "
        "data that differ, and the means mix them; their column data_digest tells them apart"
        for data, counts in changed.items()
    ]


def _without_later(config: Config) -> Config:
    """Without the fields that came later and do what was done before; only the classes, with torch, know which."""
    from bdray.experiment import Experiment

    return Experiment.identity_of(config)


def groups(rows: pa.Table, bounds: Bounds = USUAL) -> list[dict[str, Any]]:
    """One record per experiment but for its seeds, and apart from it one for those of its victims that did not plant: labels,
    ABOUT, COLUMNS of every score, 0 to 1, and `values`: by score the values of each victim, one a seed of the defense."""
    rows = rows.append_column("der", pa.array([effectiveness(row) for row in rows.select(FALLS).to_pylist()], pa.float64()))
    records = [record for _, record in averages(rows, (*SCORES, "seconds"), bounds)]
    return sorted(records, key=lambda r: (*(r[name] for name in LABELS), r["planted"] is False))


def effectiveness(row: dict[str, Any]) -> float | None:
    """The defense effectiveness rating of Zhu et al. 2023 (FT-SAM, ICCV), 0 to 1: half of 1 + the fall of the ASR - the fall of
    the utility, where a rise counts as no fall. None where one of them was not measured. A model that only stops predicting the
    target class has nearly 1: it says nothing beside `class_lost`."""
    falls = []
    for name in ("asr", "utility"):
        before, after = row[f"{name}_before"], row[f"{name}_after"]
        if before is None or after is None:
            return None
        falls.append(max(0.0, before - after))
    return (1 + falls[0] - falls[1]) / 2


def marked(rows: pa.Table, bounds: Bounds) -> pa.Table:
    """The rows with `planted`, `class_lost`, `utility_lost` and `unseparated`, each null where it cannot be told."""
    rows = rows.append_column("planted", pc.greater_equal(rows["asr_before"], bounds.planted))
    for column, name in (("class_lost", "target_utility"), ("utility_lost", "utility")):
        fall = pc.subtract(rows[f"{name}_before"], rows[f"{name}_after"])
        rows = rows.append_column(column, pc.greater(fall, bounds.class_budget + ROUNDING))
    return rows.append_column("unseparated", pc.less(rows["separation"], SEPARATED))


def averages(
    rows: pa.Table,
    names: Sequence[str],
    bounds: Bounds = USUAL,
) -> list[tuple[Config, dict[str, Any]]]:
    """As `groups`, of these columns and in no order, each with the dict of one of its experiments."""
    done = marked(rows.filter(pc.field("status") == "done"), bounds).sort_by("seed")
    counts = ("clean_tests", "triggered_tests")
    lists: list[tuple[Any, ...]] = [(name, "list") for name in (*FLAGS, *names)]
    found = done.group_by(["setting", "planted", "victim"], use_threads=False).aggregate(
        [("spec", "min"), *((name, "min") for name in counts), *lists]
    )
    parts: dict[tuple[str, bool | None], list[dict[str, Any]]] = {}
    for part in found.to_pylist():
        parts.setdefault((part["setting"], part["planted"]), []).append(part)
    configs = [json.loads(victims[0]["spec_min"]) for victims in parts.values()]
    out = []
    for ((_, planted), victims), config, label in zip(parts.items(), configs, labels(configs), strict=True):
        record: dict[str, Any] = {**label, "planted": planted, "victims": len(victims)}
        record["counts"] = [len(victim["class_lost_list"]) for victim in victims]
        record["n"] = sum(record["counts"])
        for name in FLAGS:
            record[name] = sum(holds is True for victim in victims for holds in victim[f"{name}_list"])
        record |= {name: min((v[f"{name}_min"] or 0 for v in victims), default=0) for name in counts}
        record["values"] = {}
        for name in names:
            of_victims = [[value for value in victim[f"{name}_list"] if value is not None] for victim in victims]
            record["values"][name] = of_victims = [seeds for seeds in of_victims if seeds]
            record |= _moments(name, of_victims, record)
        out.append((config, record))
    return out


def _moments(name: str, values: list[list[float]], record: Mapping[str, Any]) -> dict[str, float | None]:
    """Of one score: mean, spread, ends, and where it is a share of tests its interval."""
    ends = ("", "_spread", "_least", "_most", *(("_low", "_high") if name in COUNTED else ()))
    found: dict[str, float | None] = {f"{name}{end}": None for end in ends}
    if not values:
        return found
    means = [mean(seeds) for seeds in values]
    found[name] = middle = mean(means)
    found[f"{name}_spread"] = deviation(means) if len(means) >= FEW else None
    found |= {f"{name}_least": min(map(min, values)), f"{name}_most": max(map(max, values))}
    tests = record.get(COUNTED.get(name, ""))
    if tests and 0 <= middle <= 1:
        # The victims share their test samples, so that more of them do not make it narrower.
        found[f"{name}_low"], found[f"{name}_high"] = interval(middle, tests)
    return found


def flags(record: Mapping[str, Any]) -> str:
    """What speaks against a group, in words; with how many of its rows, where not all."""
    found = [NOT_PLANTED] if record["planted"] is False else []
    for name, words in FLAGS.items():
        if record[name]:
            found.append(words if record[name] == record["n"] else f"{words} {record[name]}/{record['n']}")
    return ", ".join(found)


def spoilt(record: Mapping[str, Any]) -> bool:
    """Whether a group has its ASR, and its DER, for nothing."""
    return record["planted"] is False or bool(record["class_lost"] or record["utility_lost"])


def labels(configs: list[Config]) -> list[dict[str, str]]:
    """Of each experiment the names of its parts, and the fields in which it differs from others of the same name."""
    shapes: dict[Any, set[frozenset[str]]] = {}
    for place, fields in (shape for config in configs for shape in _shapes(config)):
        shapes.setdefault(place, set()).add(fields)
    if any(len(found) > 1 for found in shapes.values()):  # of one member, hence of two versions
        configs = [_without_later(config) for config in configs]
    out: list[dict[str, str]] = [{} for _ in configs]
    for label, heads in {"victim": ("task", "training"), "attack": ("attack",), "defense": ("defense",)}.items():
        texts = [json.dumps([config.get(head) for head in heads]) for config in configs]
        parts = {text: _part(label, dict(zip(heads, json.loads(text), strict=True))) for text in set(texts)}
        written = _written(list(parts.values()))
        names = dict(zip(parts, written, strict=True))
        for record, text in zip(out, texts, strict=True):
            record[label] = names[text]
    return out


def _shapes(config: Config, path: str = "") -> Iterator[tuple[tuple[str, Any], frozenset[str]]]:
    """Of each group of fields its place and the member's name, and which fields there are."""
    yield (path, config.get("name")), frozenset(config)
    for field, value in config.items():
        if isinstance(value, dict):
            yield from _shapes(value, f"{path}.{field}")


def _part(label: str, config: Config) -> tuple[str, dict[str, Any]]:
    """The name of a victim, attack or defense, and its fields without seeds."""
    fields = flat(config)
    if label != "victim":
        name = str(fields.pop(label))
        if "defense.clean" in fields:  # of the two ways to say how much clean data there is, the one that holds
            clean, shots = fields.pop("defense.clean"), fields.pop("defense.shots", 0)
            fields = {"clean": f"{shots}/class" if shots else f"{100 * clean:g}%", **fields}
        return name, {p.removeprefix(f"{label}."): v for p, v in fields.items() if p != "defense.seed"}
    fields.pop("task", None)
    name = "/".join(str(fields.pop(path, "")) for path in ("task.data", "task.model"))
    width = fields.pop("task.model.width", None)
    name += "" if width is None else f" width={width}"
    return name, {path.removeprefix("task."): value for path, value in fields.items()}


def _written(parts: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Each name with the fields in which those of this name differ; a field that some of them lack differs too."""
    members: dict[str, list[dict[str, Any]]] = {}
    for name, fields in parts:
        members.setdefault(name, []).append(fields)
    shown: dict[str, dict[str, dict[str, str]]] = {}
    for name, alike in members.items():
        shown[name] = {}
        for path in dict.fromkeys(path for fields in alike for path in fields):
            values = {repr(fields[path]): fields[path] for fields in alike if path in fields}
            if len(values) > 1 or any(path not in fields for fields in alike):
                shown[name][path] = _distinct(values)
    return [
        " ".join([name, *(f"{path}={texts[repr(fields[path])]}" for path, texts in shown[name].items() if path in fields)])
        for name, fields in parts
    ]


def _distinct(values: dict[str, Any]) -> dict[str, str]:
    """The values as short texts: of numbers three digits, or as many as tell them apart."""
    for digits in range(3, 18):
        texts = {key: f"{v:.{digits}g}" if isinstance(v, float) else str(v) for key, v in values.items()}
        if len(set(texts.values())) == len(values):
            break
    return texts
