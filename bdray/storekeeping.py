"""What a store holds and what it costs, whether all of it can be read, and one file of a sweep's rows: `bdray store`,
`bdray store check`, `bdray store compact SWEEP`. Imports no torch."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from pyarrow import fs

from bdray.files import AT_ONCE, Files
from bdray.layout import align, safe
from bdray.refusal import first_line
from bdray.rows import Rows, sweep_of
from bdray.spec import BadInput, unknown
from bdray.store import Store, parse_about

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


class Fault(NamedTuple):
    """A file that is of no use."""

    path: str
    why: str
    damaged: bool
    """Or only left over."""

    def line(self) -> str:
        """The file, what is wrong with it, and what comes of that."""
        return f"{self.path}: {self.why}; {_THEN[self.path.partition('/')[0] if self.damaged else '']}"


def show(store: Store) -> str:
    """Files and bytes of every kind and every sweep, and who uses the victims."""
    files = _files(store.files)
    if not files:
        raise BadInput(f"nothing in the store {store.uri!r}; make something with `bdray run` or `bdray sweep`")
    kinds, sweeps = _sums(files, _kind), _sums([(p, i) for p, i in files if _kind(p) == "rows"], sweep_of)
    users: dict[str, set[str]] = defaultdict(set)
    lines = []
    for sweep, cost in sweeps.items():
        table = store.rows(sweep, ["key", "status", "victim"])
        statuses = table["status"].to_pylist()
        for key, victim in zip(table["key"].to_pylist(), table["victim"].to_pylist(), strict=True):
            users[victim].add(key)
        lines.append([sweep, *(statuses.count(status) for status in ("done", "failed", "skipped")), *cost])
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
    found = _files(store.files)
    faults = sorted([*_left_over(found, store.files, delete), *_damaged(found, store.files)])
    infos, lines, gone = dict(found), [], set()
    for fault in faults:
        info = store.files.info(fault.path)
        # Not one that was written again meanwhile.
        if delete and (info.mtime_ns, info.size) == (infos[fault.path].mtime_ns, infos[fault.path].size):
            store.files.delete(fault.path)
            gone.add(fault.path)
        lines.append(safe(f"{fault.line()}{'; deleted' if fault.path in gone else ''}"))
    damaged = sum(fault.damaged for fault in faults)
    lines.append(f"{len(found)} files, {damaged} damaged, {len(faults) - damaged} left over")
    return "\n".join(lines), any(fault.damaged and fault.path not in gone for fault in faults)


def _left_over(found: list[tuple[str, fs.FileInfo]], files: Files, exactly: bool) -> list[Fault]:
    """Temporary files of writers that were killed; `exactly` by the clock of the store, which must be written to be read."""
    hidden = [(path, info.mtime_ns) for path, info in found if _TEMPORARY.fullmatch(info.base_name)]
    if not hidden:
        return []
    now = files.now() if exactly else time.time_ns()
    ages = {path: (now - (stamp or now)) / 1e9 for path, stamp in hidden}
    return [Fault(path, f"temporary, {age / 60:.0f} minutes old", False) for path, age in ages.items() if age > LEFT_OVER]


def _damaged(found: list[tuple[str, fs.FileInfo]], files: Files) -> list[Fault]:
    """What no reader of the store would take."""
    whys: dict[str, str] = {}
    before, files.on_damage = files.on_damage, whys.__setitem__
    try:
        names = [path for path, info in found if not info.base_name.startswith(".")]
        rows = Rows(files)
        tables = {"rows": rows.table, "curves": files.table, "tables": files.table, "searches": files.table}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            small = [path for path in names if path.endswith(".parquet") and _top(path) in tables]
            list(pool.map(lambda path: tables[_top(path)](path), small))
        for path in names:  # one at a time: they are large
            if path.endswith(".safetensors") and _top(path) in ("victims", "checkpoints"):
                _read(files, path, _tensors if _top(path) == "victims" else _epochs)
        sizes = {path: info.size for path, info in found}
        for path in names:
            if path.startswith("victims/") and path.endswith("/victim.json"):
                _check_victim(files, path, sizes, whys)
    finally:
        files.on_damage = before
    return [Fault(path, why, True) for path, why in whys.items()]


def _check_victim(files: Files, path: str, sizes: dict[str, int], whys: dict[str, str]) -> None:
    """The JSON makes its parts a victim, so it is damaged where one of them is not what it says."""
    about = _read(files, path, parse_about)
    for part, size in about["bytes"].items() if about else ():
        other = path.replace("victim.json", f"{part}.safetensors")
        if other in whys:
            whys[path] = f"its {part}.safetensors is damaged"
        elif sizes.get(other) != size:
            has = f"has {sizes[other]} bytes, not {size}" if other in sizes else "is not there"
            whys[path] = f"its {part}.safetensors {has}"


def _read(files: Files, path: str, parse: Callable[[bytes], T]) -> T | None:
    try:
        return files.parsed(path, parse, (ValueError,))
    except FileNotFoundError:  # gone meanwhile
        return None


def _tensors(data: bytes) -> set[str]:
    """The names in a safetensors file. Raises ValueError."""
    from safetensors import SafetensorError, deserialize

    try:
        return {name for name, _ in deserialize(data)}
    except SafetensorError as error:
        raise ValueError(first_line(error)) from None


def _epochs(data: bytes) -> None:
    """Raises ValueError where a checkpoint does not say how many epochs it is after."""
    if "epochs" not in _tensors(data):
        raise ValueError("does not say how many epochs are done")


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
