"""Row: what one experiment showed, its Parquet schema, and how rows are read back. Imports no torch: reading is instant."""

import dataclasses
import json
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

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
CURVES = pa.schema(
    [("key", pa.string()), ("of", pa.string()), ("step", pa.int64()), ("metric", pa.string()), ("value", pa.float64())]
)
"""One value of one metric at one step; `of` is `victim`, `defense` or `truth` (judged by the platform with what no defender
has), `key` the victim's or the row's."""


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


def spec_of(record: dict[str, Any]) -> Config:
    """The experiment's dict."""
    return dict(json.loads(record["spec"]))
