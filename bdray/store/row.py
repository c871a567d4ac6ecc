"""Row: what one experiment showed, its Parquet schema, and how rows are read back. Imports no torch: reading is instant."""

import dataclasses
import hashlib
import importlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bdray.spec import Config, key_of

NAN = float("nan")
STATUSES = ("done", "skipped", "failed", "lost")
"""How an experiment ended. skipped: its parts make no sense together. failed: it raised. lost: its workers died under it, so
that the same command tries it again. The reason is in the row's `error`."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One model on the test set, every value 0 to 1, NaN where it cannot be measured."""

    utility: float = NAN
    """The task's clean score on every clean test sample."""
    asr: float = NAN
    """Share of triggered test samples (those the attack counts) that do what the attacker wants."""
    recovery: float = NAN
    """The clean score of the same triggered samples against their true targets."""
    target_utility: float = NAN
    """The clean score on clean samples of the target class: it unmasks a model that never predicts that class."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One finished, skipped or failed experiment. The same columns in every modality."""

    key: str
    setting: str
    """Hash of the spec without its seeds: rows that share it are repeats of one experiment."""
    victim: str
    sweep: str
    status: str
    """One of `STATUSES`."""
    error: str = ""
    task: str
    data: str
    model: str
    attack: str
    defense: str
    seed: int
    utility_name: str
    utility_before: float = NAN
    asr_before: float = NAN
    recovery_before: float = NAN
    target_utility_before: float = NAN
    utility_after: float = NAN
    asr_after: float = NAN
    recovery_after: float = NAN
    target_utility_after: float = NAN
    held_utility_after: float = NAN
    """On clean samples that the defender could have held but was not given."""
    held_utility_before: float = NAN
    """The victim's, on the same samples."""
    worst_class_held_before: float = NAN
    """The victim's utility on those of these samples that are of one class, the one whose utility fell most."""
    worst_class_held_after: float = NAN
    """The model's on the same ones."""
    worst_class_held_tests: int = 0
    """How many these are: of a few, one sample is many points."""
    proxies: str = ""
    """What a defender can tell of the backdoor: a JSON object, label of a proxy to value (null: it cannot tell)."""
    flag_recall: float = NAN
    """Flagged poisoned samples / poisoned samples."""
    false_alarm: float = NAN
    """Flagged clean samples / clean samples; cover samples are clean."""
    target_false_alarm: float = NAN
    """The same among clean samples of the target class, which a filter may empty unseen."""
    kept_agreement: float = NAN
    """Worst class: the share of its samples that were kept and are predicted as labelled. Told from the poisoned training set
    alone, without truth, as is the next."""
    flagged_agreement: float = NAN
    """Flagged samples that the model predicts as labelled / flagged samples, both with 1 % of the training set added."""
    separation: float = NAN
    """How far the samples that a filter takes for poison lie apart from the others, 0 to 1, as the defender sees it."""
    clean_tests: int = 0
    triggered_tests: int = 0
    clean_held: int = 0
    """Clean samples that the defender was given."""
    clean_judged: int = 0
    """Further clean samples, with labels, on which held utility was measured, and of which proxies take theirs: who chooses a
    setting by these has used them, too."""
    trained_on: int = 0
    data_digest: str = ""
    """Of the samples themselves: two archives of one name are not the same data."""
    poisoned: int = 0
    covered: int = 0
    victim_seconds: float = NAN
    """Training the victim, whenever that was."""
    seconds: float = NAN
    """The defense alone."""
    peak_memory: int = 0
    """Bytes during the defense: of the device, or of the process on a CPU."""
    device: str = ""
    host: str = ""
    bdray_version: str = ""
    torch_version: str = ""
    python_version: str = ""
    commit: str = ""
    time: datetime
    """When the row was written, UTC."""
    spec: str
    """The whole experiment as JSON: `bdray run --again KEY` repeats it."""


_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "datetime": pa.timestamp("us", tz="UTC")}
SCHEMA = pa.schema([(f.name, _TYPES[getattr(f.type, "__name__", str(f.type))]) for f in dataclasses.fields(Row)])


def setting_of(identity: Config) -> str:
    """The key of an experiment, given as its `identity()`, without its seeds."""
    defense = {k: v for k, v in identity["defense"].items() if k != "seed"}
    return key_of({**{k: v for k, v in identity.items() if k != "seed"}, "defense": defense})


def to_table(rows: list[Row]) -> pa.Table:
    """Rows as a Parquet table; NaN becomes null, which averages skip."""
    values = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in vars(r).items()} for r in rows]
    return pa.Table.from_pylist(values, SCHEMA)


def of_record(record: dict[str, Any]) -> Row:
    """The inverse, for one row of `table.to_pylist()`. What a row of an older version lacks takes its default."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Row):
        if record.get(field.name) is not None:
            values[field.name] = record[field.name]
        elif field.default is dataclasses.MISSING:
            values[field.name] = None
    return Row(**values)


def measured(proxies: str | None) -> set[str]:
    """The labels of the proxies that a row has, from the column of them."""
    return set(json.loads(proxies or "{}"))


def spec_of(record: dict[str, Any]) -> Config:
    """The experiment's dict."""
    return dict(json.loads(record["spec"]))


SECONDS = ("victim_seconds", "seconds")
SHARES = tuple(field.name for field in SCHEMA if field.type == pa.float64() and field.name not in SECONDS)
"""The columns that are 0 to 1."""
NAMES = ("attack", "data", "defense", "model", "task")
"""The columns that repeat a name of the spec."""
TOLD = ("sweep", "setting", "victim")
"""The columns that name other things, files among them: never null."""
LONGEST = 2**20
"""Bytes of a text in a row."""
LATEST = 2**52
"""Microseconds since 1970 that a row's time may be after: in 2112."""


def faults(table: pa.Table) -> dict[int, str]:
    """Why a row is none that bdray writes, by its position, of those in a table with the columns of Row: its key or its names
    are not those of its spec, a share is outside 0 to 1, a number is not finite, a status is unknown. What it says is
    whole: a row with one wrong value may have others."""
    found: dict[int, str] = {}
    for name in SCHEMA.names:
        column, (good, expected) = table[name], _rule(name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        if _suspect(name, column, good):
            for at, value in enumerate(column.to_pylist()):
                if (value is None and name in TOLD) or (value is not None and not good(value)):
                    got = "more" if name in ("spec", "error") else str(value)[:40]
                    found.setdefault(at, f"{name}: got {got}, expected {expected}")
    columns = [table[name].to_pylist() for name in ("key", "spec", "seed", *NAMES)]
    for at, (key, spec, *told) in enumerate(zip(*columns, strict=True)):
        if at not in found and (why := _lie(key, spec, *told)):
            found[at] = why
    return found


def _rule(name: str) -> tuple[Callable[[Any], bool], str]:
    """Which values of a column are right, but for null, and that in words."""
    if name in SHARES:
        return lambda value: 0 <= value <= 1, "0 to 1"
    if name in SECONDS:
        return math.isfinite, "a finite number"
    if name == "time":
        return lambda value: 0 <= value <= LATEST, "a time after 1970 and before 2112"
    if SCHEMA.field(name).type == pa.int64():
        return lambda value: value >= 0, "no negative number"
    if name == "status":
        return STATUSES.__contains__, f"one of {', '.join(STATUSES)}"
    if name in TOLD:
        return lambda value: re.fullmatch("[A-Za-z0-9_-]+", value) is not None, "letters, digits, _ and -"
    if name == "proxies":
        return _is_measured, "a JSON object of numbers"
    return lambda value: len(value) <= LONGEST, f"at most {LONGEST} characters"


def _suspect(name: str, column: pa.ChunkedArray, good: Callable[[Any], bool]) -> bool:
    """Whether a value is not right, without looking at each. No constant is handed to pyarrow, which imports pandas for one."""
    if name in TOLD or name in ("status", "proxies"):
        return not all(good(value or "") for value in pc.unique(column).to_pylist())
    if pa.types.is_string(column.type):
        return (pc.max(pc.binary_length(column)).as_py() or 0) > LONGEST
    finite = not pa.types.is_floating(column.type) or pc.all(pc.is_finite(column)).as_py() is not False
    return not (finite and all(value is None or good(value) for value in pc.min_max(column).as_py().values()))


def _is_measured(proxies: str) -> bool:
    """Whether it is what a row says of proxies: numbers and nulls by label, or nothing."""
    try:
        values = json.loads(proxies) if proxies else {}
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and all(
        value is None or (isinstance(value, int | float) and math.isfinite(value)) for value in values.values()
    )


def _lie(key: str, spec: str, seed: int | None, *names: str | None) -> str:
    """What of a row is not as its spec says; empty if all is."""
    # bdray's own JSON is that of the key but for its spaces: a hundred thousand rows of an older store take a second, not ten.
    same = hashlib.sha256(spec.replace(", ", ",").replace(": ", ":").encode()).hexdigest()[:16] == key
    if same and f'"seed": {seed}, "task"' in spec and all(f'"name": "{name}"' in spec for name in names):
        return ""
    try:
        config = json.loads(spec)
        known = dict(zip(NAMES, _named(config), strict=True)) | {"seed": config["seed"]}
        found = key_of_spec(config, key)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "its spec is no experiment"
    if found != key:
        return f"its key is {key[:40]}, and its spec has another one"
    told = dict(zip(NAMES, names, strict=True)) | {"seed": seed}
    return next((f"its {name} is not that of its spec" for name in told if told[name] != known[name]), "")


def _named(config: Config) -> list[str]:
    task = config["task"]
    return [part["name"] for part in (config["attack"], task["data"], config["defense"], task["model"], task)]


def key_of_spec(config: Config, expected: str = "") -> str:
    """The key that the row of a stored spec has. Imports no torch where it is the `expected` one at once."""
    found = key_of(config)
    if found == expected:
        return found
    # Fields that came later are not in the key while they do nothing; only the classes know which. By its name, since the
    # modules of experiments stand above this one.
    experiment = importlib.import_module("bdray.experiment").Experiment
    return key_of(experiment.identity_of(config))
