"""Clean utility against attack success, one point a row: the corner that a defense wants is bottom right. A model that lost the
target class gets there for nothing: such points are crossed out, and victims that did not plant are hollow."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from bdray.judge.validity import CLASS_LOST, NOT_PLANTED, USUAL, UTILITY_LOST, Bounds
from bdray.spec import BadInput

MARKERS = "osD^vPX*<>hp"
FORMATS = (".png", ".svg", ".pdf")
COLUMNS = (
    *("status", "utility_name", "data", "model", "attack", "defense", "victim", "spec", "utility_before", "utility_after"),
    *("asr_before", "asr_after", "target_utility_before", "target_utility_after"),
)
CROSSES = {CLASS_LOST: ("x", "red"), UTILITY_LOST: ("+", "black")}
"""Marker and colour over a point that lost the target class, or else as much of all classes."""


def draw(rows: pa.Table, path: Path, bounds: Bounds = USUAL) -> None:
    """Write the picture; the file's ending says the format. Colour is the defense, shape the attack; a red cross lies over what
    lost the target class, a black one over what lost as much of all of them, and victims that did not plant are hollow."""
    check_name(path)
    points = [
        row
        for row in rows.select(COLUMNS).to_pylist()
        if row["status"] == "done" and row["asr_after"] is not None and row["utility_after"] is not None
    ]
    if not points:
        raise BadInput("no finished row to draw; see `bdray table`")
    save(_figure(points, bounds), path)


def check_name(path: Path) -> None:
    """Raise BadInput for a file that is no picture by its name."""
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"cannot draw {str(path)!r}: expected a file that ends in {', '.join(FORMATS)}; name one")


def save(figure: Any, path: Path) -> None:
    """Write a figure. Raises BadInput where the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:  # the second of names that no file can have
        raise BadInput(f"cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}; name another file") from None


def _figure(points: list[dict[str, Any]], bounds: Bounds) -> Any:
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot: it would ask for a screen and keep every figure
    from matplotlib.lines import Line2D

    defenses = sorted({p["defense"] for p in points}, key=lambda d: (d != "none", d))
    attacks = sorted({p["attack"] for p in points})
    others = [d for d in defenses if d != "none"]
    palette = mpl.colormaps["tab10" if len(others) <= 10 else "tab20"]
    colours = {"none": "black", **{d: palette(i % palette.N) for i, d in enumerate(others)}}
    shapes = {a: MARKERS[i % len(MARKERS)] for i, a in enumerate(attacks)}
    columns = 1 + (len(defenses) + len(attacks)) // 20
    figure = Figure(figsize=(5.5 + 2 * columns, 5), layout="constrained")
    axes = figure.subplots()
    groups: dict[tuple[str, str, bool], list[tuple[float, float]]] = {}
    crossed: dict[str, list[tuple[float, float]]] = {}
    said = set()
    for p in points:
        flags = bounds.flags(p)
        place = (100 * p["utility_after"], 100 * p["asr_after"])
        groups.setdefault((p["defense"], p["attack"], NOT_PLANTED in flags), []).append(place)
        for flag in [flag for flag in CROSSES if flag in flags][:1]:
            crossed.setdefault(flag, []).append(place)
        said |= {NOT_PLANTED} & set(flags)
    for (defense, attack, bare), places in sorted(groups.items()):
        x, y = zip(*places, strict=True)
        look: dict[str, Any] = {"facecolors": "none", "edgecolors": colours[defense]} if bare else {"color": colours[defense]}
        axes.scatter(x, y, marker=shapes[attack], s=36, alpha=0.75, linewidths=1.0 if bare else 0, **look)
    for flag, places in crossed.items():
        x, y = zip(*places, strict=True)
        axes.scatter(x, y, marker=CROSSES[flag][0], color=CROSSES[flag][1], s=60, linewidths=1.2, zorder=3)
    axes.set_xlabel(f"{' or '.join(sorted({p['utility_name'] for p in points}))} on clean tests after the defense, %")
    axes.set_ylabel("attack success rate after the defense, %")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.25)
    axes.set_title(f"{_victims(points)}: {len(points)} rows", fontsize=10)
    handles = [Line2D([], [], color=colours[d], marker="o", ls="", label=d) for d in defenses]
    handles += [Line2D([], [], color="grey", marker=shapes[a], ls="", label=a) for a in attacks]
    handles += _flag_handles(said | crossed.keys(), bounds)
    figure.legend(handles=handles, loc="outside right center", frameon=False, ncols=columns)
    return figure


def _flag_handles(said: set[str], bounds: Bounds) -> list[Any]:
    """What the crosses and the hollow points mean, of those that there are."""
    from matplotlib.lines import Line2D

    found = []
    for flag, (marker, colour) in CROSSES.items():
        if flag in said:
            label = f"{flag}:\nfell by > {100 * bounds.class_budget:g} points"
            found.append(Line2D([], [], color=colour, marker=marker, ls="", label=label))
    if NOT_PLANTED in said:
        label = f"{NOT_PLANTED}:\nASR before < {100 * bounds.planted:g} %"
        found.append(Line2D([], [], color="grey", mfc="none", marker="o", ls="", label=label))
    return found


def _victims(points: list[dict[str, Any]]) -> str:
    """Data sets and models with their width, or how many there are where a line does not hold them."""
    names = set()
    for point in {p["victim"]: p for p in points}.values():
        width = json.loads(point["spec"])["task"]["model"].get("width")
        names.add(f"{point['data']}, {point['model']}" + ("" if width is None else f" width {width}"))
    text = "; ".join(sorted(names))
    return text if len(text) <= 80 else f"{len(names)} data sets and models"
