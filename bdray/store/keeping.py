"""What a store holds and what it costs, whether all of it can be read, and one file of a sweep's rows: `bdray store`,
`bdray store check`, `bdray store compact SWEEP`. Imports no torch."""

import contextlib
import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from pyarrow import fs

from bdray.layout import align, safe
from bdray.spec import BadInput, unknown
from bdray.store.files import AT_ONCE, LINK, Files
from bdray.store.refusal import first_line
from bdray.store.rows import Rows, sweep_of
from bdray.store.store import Store, check_tensors, parse_about
from bdray.store.trials import trial

T = TypeVar("T")

LEFT_OVER = 600
"""Seconds after which a temporary file was left by a writer that is no more."""
SHOWN = 20
"""Victims in a list of them."""
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{32}")
_THEN = {
    "rows": "its cells are run again",
    "curves": "no figure shows it until it is made again",
    "tables": "no figure shows it until it is made again",
    "searches": "no search learns from it",
    "victims": "the victim is trained again when a cell needs it",
    "checkpoints": "that training starts anew",
    "": "nothing reads it",
}
"""What comes of a damaged file of each kind, and of one that was left over."""
KINDS = {*filter(None, _THEN), "claims", "ray", "tensorboard"}
"""The folders of a store."""


class Fault(NamedTuple):
    """A file that is of no use."""

    path: str
    why: str
    damaged: bool
    """Or only left over."""

    def line(self) -> str:
        """The file, what is wrong with it, and what comes of that."""
        then = "" if self.link else f"; {_THEN.get(_top(self.path) if self.damaged else '', _THEN[''])}"
        return f"{safe(self.path)}: {self.why}{then}"

    @property
    def link(self) -> bool:
        """Whether it is none of ours, and stays."""
        return self.why == LINK


def show(store: Store) -> str:
    """Files and bytes of every kind and every sweep, and who uses the victims."""
    files = _some(store)
    kinds, sweeps = _sums(files, _kind), _sums([(p, i) for p, i in files if _kind(p) == "rows"], sweep_of)
    users: dict[str, set[str]] = defaultdict(set)
    lines = []
    for sweep, cost in sweeps.items():
        if not re.fullmatch("[A-Za-z0-9_-]+", sweep):  # no sweep of ours: a foreign folder has no rows
            continue
        table = store.rows(sweep, ["key", "status", "victim"])
        statuses = table["status"].to_pylist()
        for key, victim in zip(table["key"].to_pylist(), table["victim"].to_pylist(), strict=True):
            users[victim].add(key)
        # What was lost is run again by its sweep: most stores have none.
        lost = f" ({statuses.count('lost')} lost)" if "lost" in statuses else ""
        lines.append([f"{sweep}{lost}", *(statuses.count(status) for status in ("done", "failed", "skipped")), *cost])
    whole = {path.split("/")[1] for path, _ in files if path.startswith("victims/") and path.endswith("/victim.json")}
    victims = _sums([(p, i) for p, i in files if _kind(p) == "victims"], lambda path: path.split("/")[1])
    idle = [size for key, (_, size) in victims.items() if not users[key]]
    used = sorted(victims.items(), key=lambda item: (len(users[item[0]]), item[0]))
    shown = [[key, "" if key in whole else "incomplete", len(users[key]), *cost] for key, cost in used[:SHOWN]]
    parts = [
        f"{len(files)} files, {_size(sum(size for _, size in kinds.values()))}",
        _table([[kind, *cost] for kind, cost in kinds.items()], ["kind", "files", "size"]),
        _table(lines, ["sweep", "done", "failed", "skipped", "files", "size"]),
        _table(shown, ["victim", "state", "rows", "files", "size"]),
        f"and {len(victims) - SHOWN} victims with no fewer rows" if len(victims) > SHOWN else "",
        f"no row uses {len(idle)} of {len(victims)} victims, {_size(sum(idle))}" if idle else "",
    ]
    return "\n\n".join(part for part in parts if part)


def compact(store: Store, sweep: str) -> str:
    """Make one file of the rows of a sweep. Raises BadInput, with the nearest name, for one that has none."""
    if sweep not in store.sweeps():
        raise BadInput(f"{unknown('sweep', sweep, store.sweeps())} (in the store {store.uri!r})")
    before = sum(sweep_of(path) == sweep for path, _ in _files(store.files) if _kind(path) == "rows")
    store.compact(sweep)
    after = sum(sweep_of(path) == sweep for path, _ in _files(store.files) if _kind(path) == "rows")
    return f"{sweep}: {len(store.index(sweep))} rows, {before} files before, {after} now"


def check(store: Store, delete: bool = False) -> tuple[str, bool]:
    """Read everything; a line for each file that is damaged or left over, and whether any damage is left. `delete` removes
    those files, and no other."""
    whys: dict[str, str] = {}
    with _heard(store.files, whys):
        found = _some(store)
        bare = _damaged(found, store, whys)
    faults = sorted([*_left_over(found, store.files, delete), *(Fault(path, why, True) for path, why in whys.items())])
    infos, lines, gone = dict(found), [], set()
    for fault in faults:
        kept = 0
        # Not one that was written again meanwhile, and never a link or what is behind it.
        if delete and fault.path in infos and not fault.link and _same(store.files.info(fault.path), infos[fault.path]):
            with _heard(store.files, {}):
                kept = Rows(store.files).rescue(fault.path) if _top(fault.path) == "rows" else 0
            store.files.delete(fault.path)
            gone.add(fault.path)
        left = f", but for {kept} rows" if kept else ""
        lines.append(safe(f"{fault.line()}{'; deleted' if fault.path in gone else ''}{left}"))
    damaged = sum(fault.damaged for fault in faults)
    lines.append(f"{len(found)} files, {damaged} damaged, {len(faults) - damaged} left over")
    if bare:
        lines.append(f"{bare} files have no checksum: an older bdray wrote them, and a flipped bit in them may pass unseen")
    return "\n".join(lines), any(fault.damaged and fault.path not in gone for fault in faults)


@contextlib.contextmanager
def _heard(files: Files, whys: dict[str, str]) -> Iterator[None]:
    """What is wrong with files is written down, not warned of."""
    before, files.on_damage = files.on_damage, whys.__setitem__
    try:
        yield
    finally:
        files.on_damage = before


def _same(now: fs.FileInfo, then: fs.FileInfo) -> bool:
    return (now.mtime_ns, now.size) == (then.mtime_ns, then.size)


def _left_over(found: list[tuple[str, fs.FileInfo]], files: Files, exactly: bool) -> list[Fault]:
    """Temporary files of writers that were killed; `exactly` by the clock of the store, which must be written to be read."""
    hidden = [(path, info.mtime_ns) for path, info in found if _TEMPORARY.fullmatch(info.base_name)]
    if not hidden:
        return []
    now = files.now() if exactly else time.time_ns()
    ages = {path: (now - (stamp or now)) / 1e9 for path, stamp in hidden}
    return [
        Fault(path, f"temporary, {abs(age) / 60:.0f} minutes {'old' if age > 0 else 'ahead of the clock'}", False)
        for path, age in ages.items()
        if abs(age) > LEFT_OVER
    ]


def _damaged(found: list[tuple[str, fs.FileInfo]], store: Store, whys: dict[str, str]) -> int:
    """Read what readers of the store would take; how many of those files have no checksum."""
    names = [path for path, info in found if not info.base_name.startswith(".")]
    readers: dict[str, Callable[[str], Any]] = {
        "rows": Rows(store.files).table,
        "curves": lambda path: store.table("curves", path[len("curves/") : -len(".parquet")]),
        "tables": store.files.table,
        "searches": lambda path: trial(store, path),
    }
    store.files.bare.clear()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        small = [path for path in names if path.endswith(".parquet") and _top(path) in readers]
        list(pool.map(lambda path: readers[_top(path)](path), small))
    bare = len(store.files.bare - whys.keys())
    for path in names:  # one at a time: they are large
        if path.endswith(".safetensors") and _top(path) in ("victims", "checkpoints"):
            bare += _read(store.files, path, _sealed_tensors if _top(path) == "victims" else _sealed_epochs) is False
    infos = dict(found)
    for path in names:
        if path.startswith("victims/") and path.endswith("/victim.json"):
            _check_victim(store.files, path, infos, whys)
    return bare


def _check_victim(files: Files, path: str, infos: dict[str, fs.FileInfo], whys: dict[str, str]) -> None:
    """The JSON makes its parts a victim, so it is damaged where one of them is not what it says."""
    about = _read(files, path, parse_about)
    if about is None:
        return
    for part, size in about["bytes"].items():
        other = path.replace("victim.json", f"{part}.safetensors")
        sum_of = about["sha256"].get(part, "")
        if other in whys:
            whys[path] = f"its {part}.safetensors is damaged"
        elif other not in infos or infos[other].size != size:
            has = f"has {infos[other].size} bytes, not {size}" if other in infos else "is not there"
            whys[path] = f"its {part}.safetensors {has}"
        elif sum_of and _read(files, other, lambda data: hashlib.sha256(data).hexdigest()) != sum_of:
            whys[path] = f"its {part}.safetensors has another SHA-256"


def _read(files: Files, path: str, parse: Callable[[bytes], T]) -> T | None:
    try:
        return files.parsed(path, parse, (ValueError,))
    except FileNotFoundError:  # gone meanwhile
        return None


def _sealed_tensors(data: bytes) -> bool:
    """Whether a safetensors file has a checksum in it. Raises ValueError where it is damaged."""
    return _names(data)[1]


def _sealed_epochs(data: bytes) -> bool:
    """The same of a checkpoint. Raises ValueError also where it does not say how many epochs it is after."""
    found, has = _names(data)
    epochs = found.get("epochs", {"dtype": "", "shape": [0]})
    if epochs["dtype"] != "I64" or epochs["shape"] or int.from_bytes(epochs["data"], "little", signed=True) < 0:
        raise ValueError("does not say how many epochs are done")
    return has


def _names(data: bytes) -> tuple[dict[str, Any], bool]:
    """What is in a safetensors file, by name, and whether it has a checksum. Raises ValueError."""
    from safetensors import SafetensorError, deserialize

    has = check_tensors(data)
    try:
        return dict(deserialize(data)), has
    except (SafetensorError, OverflowError) as error:
        raise ValueError(first_line(error)) from None


def _some(store: Store) -> list[tuple[str, fs.FileInfo]]:
    """The files of a store. Raises BadInput where there is none, and in a folder of something else: it may be a whole disk."""
    top = store.files.list("")
    if top and not KINDS & top.keys():
        ours = ", ".join(sorted(KINDS))
        raise BadInput(f"no store in {store.uri!r}: it holds other things, and none of {ours}; name one with --store")
    files = _files(store.files)
    if not files:
        raise BadInput(f"nothing in the store {store.uri!r}; make something with `bdray run` or `bdray sweep`")
    return files


def _files(files: Files) -> list[tuple[str, fs.FileInfo]]:
    return [(path, info) for path, info in files.list("", recursive=True).items() if info.type == fs.FileType.File]


def _top(path: str) -> str:
    return path.partition("/")[0]


def _kind(path: str) -> str:
    """What a file is for: its folder, and for tables their kind."""
    top, *below = path.split("/")
    if not below or below[-1].startswith("."):
        return "other"
    return f"{top}/{below[0]}" if top == "tables" and len(below) > 1 else top


def _sums(found: Iterable[tuple[str, fs.FileInfo]], group: Callable[[str], str]) -> dict[str, tuple[int, int]]:
    """Files and bytes by group."""
    sums: dict[str, tuple[int, int]] = {}
    for path, info in found:
        count, size = sums.get(group(path), (0, 0))
        sums[group(path)] = count + 1, size + (info.size or 0)
    return dict(sorted(sums.items()))


def _size(count: int) -> str:
    """Bytes as a person reads them."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _table(lines: list[list[Any]], names: list[str]) -> str:
    """Text in columns; the last one is a number of bytes."""
    if not lines:
        return ""
    shown = [[*map(str, line[:-1]), _size(line[-1])] for line in lines]
    sides = ["left" if isinstance(value, str) else "right" for value in lines[0][:-1]]
    return align(names, shown, "text", [*sides, "right"])
