"""What a victim's attack does to samples: clean, triggered, and their difference, with what the victim says of each.

bdray figure samples KEY --out FILE.png
"""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bdray.attacks import Triggered
from bdray.bench import Bench
from bdray.experiment import Experiment
from bdray.report.figures import Figure
from bdray.seeds import seed_of
from bdray.spec import BadInput
from bdray.store.refusal import without_secrets
from bdray.store.row import spec_of
from bdray.store.store import Store
from bdray.victim import stored

SHOWN = {"poisoned": 2, "test": 4}
"""Samples of the training set as they stand there, and test samples with the trigger."""
KINDS = ("clean", "triggered", "difference")
FRAMES = 8
"""Of a clip, evenly spaced."""
VIEWS = (0, 60, 120, 180)
"""Degrees by which a cloud is turned about its vertical axis."""
TILT = 20
"""Degrees by which a cloud is seen from above."""
SIDE = 180
"""Pixels of a view of a cloud, which has a radius of 1."""
GREY, RED, PAPER = (110, 110, 110), (214, 39, 40), (255, 255, 255)


HEADS = {
    "part": "part",
    "sample": "sample",
    "true": "true",
    "wanted": "wanted",
    "of_clean": "said of clean",
    "of_triggered": "of triggered",
    "changed": "changed",
    "largest": "largest change",
}


class Panel(NamedTuple):
    """One sample: a picture [H, W, 3] in uint8, a grid of rows and columns of one size, and what stands beside these."""

    pixels: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]


def figure_of(key: str, store: Store, root: Path) -> Figure:
    """The figure of a stored victim, by its own key or by that of a row on it. Raises BadInput where the store has no such
    victim, and for samples that are no images, clips or clouds."""
    bench = Bench(_experiment(key, store), store, root)
    task, attack, splits = bench.experiment.task, bench.experiment.attack, bench.splits
    if task.modality not in DRAWN:
        raise BadInput(f"{key} is of the task {task.name!r}, expected one of {', '.join(DRAWN)}, whose samples can be drawn")
    victim = stored(bench)
    if victim is None:
        raise BadInput(f"the victim of {key} is of no use; the command that made it makes it again")
    at = _spread(victim.poison.poisoned, SHOWN["poisoned"])
    true, stands = (samples.take(at).dense() for samples in (splits.train, victim.poison.apply(splits.train)))
    test = splits.test.take(attack.attackable(splits.test))
    test = test.take(_spread(torch.arange(len(test)), SHOWN["test"])).dense()
    parts = {
        "poisoned": (true, Triggered(true.having(inputs=stands.inputs), stands.targets)),
        "test": (test, attack.stamp(test, victim.patterns, seed_of(bench.experiment.seed, "test"))),
    }
    records, panels = [], []
    for part, (clean, triggered) in parts.items():
        said = [task.predict(victim.model, samples) if len(samples) else [] for samples in (clean, triggered.samples)]
        for number in range(len(clean)):
            before, after = clean.inputs[number].cpu(), triggered.samples.inputs[number].cpu()
            columns = {"true": clean.targets, "wanted": triggered.wanted, "of_clean": said[0], "of_triggered": said[1]}
            names = {name: splits.classes[int(column[number])] for name, column in columns.items()}
            records.append({"part": part, "sample": int(clean.at[number]), **names, **_change(before, after, task.modality)})
            panels.append((_title(records[-1]), DRAWN[task.modality](before, after)))
    unit = "radii of its cloud" if task.modality == "points" else "levels of 255"
    share = "points that were moved" if task.modality == "points" else "values that differ"
    about = (
        f"{attack.name} on {task.data.name}/{task.model.name}: poisoned training samples as the victim learnt them, and test "
        f"samples with the trigger; what the attacker wants to hear, and what the victim says; the share of {share}, and the "
        f"largest change in {unit}"
    )
    return Figure(about, HEADS, records, [NOTES[task.modality]], lambda: _sketch(panels))


def _experiment(key: str, store: Store) -> Experiment:
    """With this victim's key, or of the row with this key."""
    about = store.victim_about(key)
    row = None if about else store.row(key)
    if about is None and row is None:
        raise BadInput(
            f"no victim and no row {key!r} in the store {without_secrets(store.uri)!r}; "
            "`bdray table --sql 'SELECT DISTINCT victim FROM rows'` lists the victims"
        )
    found = Experiment.of({**(about["spec"] if about else spec_of(row or {})), "defense": "none"})
    if about and found.victim_key() != key:
        raise BadInput(f"the victim {key} says that it is {found.victim_key()}; `bdray store check` says what else is damaged")
    if row and store.victim_about(found.victim_key()) is None:
        raise BadInput(f"the store has the row {key}, but not its victim {found.victim_key()}, which its command trains again")
    return found


def _spread(at: Tensor, count: int) -> Tensor:
    """At most so many of these, evenly spaced from the first to the last."""
    return at[torch.linspace(0, max(len(at) - 1, 0), min(count, len(at))).round().long()]


def _change(before: Tensor, after: Tensor, modality: str) -> dict[str, float]:
    """The share of what changed, and the largest change."""
    change = after.double() - before.double()
    ways = change.norm(dim=1) if modality == "points" else change.abs()
    return {"changed": float((ways > 0).double().mean()), "largest": float(ways.max())}


def _title(record: dict[str, Any]) -> str:
    wanted = f"{record['part']} sample {record['sample']}: {record['true']}, wanted {record['wanted']}"
    return f"{wanted}\nthe victim says {record['of_clean']}, then {record['of_triggered']}"


def _image(before: Tensor, after: Tensor) -> Panel:
    """Of two images [C, H, W], uint8."""
    return _panel([[_coloured(before), _coloured(after), _difference(before, after)]], [""], KINDS)


def _clip(before: Tensor, after: Tensor) -> Panel:
    """Of two clips [C, T, H, W], uint8."""
    at = torch.linspace(0, before.shape[1] - 1, min(FRAMES, before.shape[1])).round().long().tolist()
    change = _difference(before, after)
    lines = [[_coloured(clip[:, frame]) for frame in at] for clip in (before, after)]
    return _panel([*lines, [change[frame] for frame in at]], KINDS, [f"frame {frame}" for frame in at])


def _cloud(before: Tensor, after: Tensor) -> Panel:
    """Of two clouds [P, 3], in a sphere of radius 1. What the trigger moved is red, over the clean cloud, too."""
    moved = (before != after).any(dim=1)
    grey, red = (torch.tensor(colour, dtype=torch.float32).expand(len(before), 3) for colour in (GREY, RED))
    over = torch.cat([before, after[moved]]), torch.cat([grey, red[moved]])
    seen = ((before, grey), (after, torch.where(moved[:, None], red, grey)), over)
    return _panel([[_view(*cloud, angle) for angle in VIEWS] for cloud in seen], KINDS, [f"turned {angle}°" for angle in VIEWS])


NOTES = {
    "image": "difference: grey where nothing changed, the largest change black or white",
    "video": "difference: grey where nothing changed, the largest change black or white",
    "points": "what the trigger moved is red; difference: over the clean cloud",
}
DRAWN: dict[str, Callable[[Tensor, Tensor], Panel]] = {"image": _image, "video": _clip, "points": _cloud}
"""By modality."""


def _coloured(image: Tensor) -> np.ndarray:
    """[C, H, W] with one channel or three, as [H, W, 3]."""
    found: np.ndarray = image.expand(3, *image.shape[1:]).permute(1, 2, 0).numpy()
    return found


def _difference(before: Tensor, after: Tensor) -> np.ndarray:
    """Two inputs [C, ..., H, W] as [..., H, W, 3]: grey where they are the same, and the largest change black or white."""
    change = after.float() - before.float()
    shown = (127.5 + 127.5 * change / change.abs().max().clamp(min=1)).to(torch.uint8)
    found: np.ndarray = shown.expand(3, *shown.shape[1:]).movedim(0, -1).numpy()
    return found


def _view(cloud: Tensor, colours: Tensor, angle: float) -> np.ndarray:
    """Points [P, 3] with their colours [P, 3] in 0..255, from the side and a little from above, as [SIDE, SIDE, 3]: the nearer
    ones cover those behind them, which are paler."""
    turn, tilt = math.radians(angle), math.radians(TILT)
    x, y, z = cloud.double().unbind(dim=1)
    across, depth = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
    up, depth = z * math.cos(tilt) + depth * math.sin(tilt), depth * math.cos(tilt) - z * math.sin(tilt)
    pale = (0.6 * (depth + 1) / 2).clamp(0, 0.6)[:, None]
    shown = (colours * (1 - pale) + torch.tensor(PAPER) * pale).to(torch.uint8).numpy()
    order = depth.argsort(descending=True, stable=True).numpy()
    pixels = np.full((SIDE, SIDE, 3), PAPER, dtype=np.uint8)
    row, column = ((SIDE * (0.5 + 0.48 * part)).long().numpy()[order] for part in (-up, across))
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        place = (row + down).clip(0, SIDE - 1), (column + right).clip(0, SIDE - 1)
        pixels[place] = shown[order]
    return pixels


def _panel(cells: Sequence[Sequence[np.ndarray]], rows: Sequence[str], columns: Sequence[str]) -> Panel:
    """Cells of one size, with a thin line between them."""
    framed = [[np.pad(cell, ((1, 1), (1, 1), (0, 0)), constant_values=255) for cell in line] for line in cells]
    return Panel(np.concatenate([np.concatenate(line, axis=1) for line in framed]), rows, columns)


def _sketch(panels: Sequence[tuple[str, Panel]]) -> Any:
    """Two panels a line, each below its title."""
    from matplotlib.figure import Figure as Picture  # not pyplot: it would ask for a screen and keep every figure

    height, width = panels[0][1].pixels.shape[:2]
    lines = math.ceil(len(panels) / 2)
    picture = Picture(figsize=(12, lines * (5.4 * height / width + 0.8)), layout="constrained")
    axes = list(picture.subplots(lines, 2, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, panel) in zip(axes, panels, strict=False):
        axis.set_axis_on()
        axis.imshow(panel.pixels, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        for names, length, ticks in ((panel.columns, width, axis.set_xticks), (panel.rows, height, axis.set_yticks)):
            ticks([length * (number + 0.5) / len(names) - 0.5 for number in range(len(names))], names, fontsize=7)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return picture
