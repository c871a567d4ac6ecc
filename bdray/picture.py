"""Clean utility against attack success, one point a row: the corner that a defense wants is bottom right."""

import json
from pathlib import Path

import pyarrow as pa

from bdray.spec import BadInput

MARKERS = "osD^vPX*<>hp"


def draw(rows: pa.Table, path: Path) -> None:
    """Write the picture; the file's ending says the format. Colour is the defense, shape the attack."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    done = [r for r in rows.to_pylist() if r["status"] == "done" and r["asr_after"] is not None]
    if not done:
        raise BadInput("no finished row to draw; see `bdray table`")
    defenses = sorted({r["defense"] for r in done}, key=lambda d: (d != "none", d))
    attacks = sorted({r["attack"] for r in done})
    colours = {d: "black" if d == "none" else plt.get_cmap("tab10")(i % 10) for i, d in enumerate(defenses)}
    shapes = {a: MARKERS[i % len(MARKERS)] for i, a in enumerate(attacks)}
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    for row in done:
        axes.scatter(
            100 * row["utility_after"],
            100 * row["asr_after"],
            color=colours[row["defense"]],
            marker=shapes[row["attack"]],
            s=36,
            alpha=0.75,
            linewidths=0,
        )
    axes.set_xlabel(f"{done[0]['utility_name']} on clean tests after the defense, %")
    axes.set_ylabel("attack success rate after the defense, %")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.25)
    handles = [Line2D([], [], color=colours[d], marker="o", ls="", label=d) for d in defenses]
    handles += [Line2D([], [], color="grey", marker=shapes[a], ls="", label=a) for a in attacks]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    data = sorted({f"{r['data']}, {r['model']} width {json.loads(r['spec'])['task']['model'].get('width', '')}" for r in done})
    axes.set_title(f"{'; '.join(data)}: {len(done)} rows", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=130)
    except ValueError as error:
        raise BadInput(f"cannot draw {str(path)!r}: {error}; end it in .png, .svg or .pdf") from None
    plt.close(figure)
