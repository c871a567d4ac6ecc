"""How well each proxy ranks the settings of a defense against the true attack success rate, on the victims of
sweeps/cifar10_cpu.py: Spearman's rank correlation, the regret of picking by it, and its cost.

Every victim gets the same settings: NFT with everything drawn at random (few steps, so that it is cheap) and fine-tuning at
several rates and lengths, with the default 1 % of clean samples. The rows are kept, so the same command goes on where it
stopped; victims that the store lacks are trained, minutes each.

    python benchmarks/proxies.py --store DIR --data DIR [--attacks badnets blend sig wanet] [--seeds 0] [--draws 16]
        [--only-table]
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import machine, markdown
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from bdray.bench import load
from bdray.experiment import Experiment
from bdray.proxies import Proxy
from bdray.proxies._images import suspects
from bdray.run import run
from bdray.seeds import numpy_rng, rng
from bdray.spec import Config
from bdray.store.row import Row
from bdray.store.store import Store
from bdray.victim import backdoor

Line = dict[str, Any]
VICTIM: Config = {
    "task": {
        "name": "image",
        "data": {"name": "cifar10", "limit": 13334},
        "model": {"name": "resnet18", "width": 8},
    },
    "training": {"epochs": 30, "lr": 0.1, "schedule": "onecycle", "precision": "bfloat16"},
}
AUTHORS: Config = {"name": "shared_adversarial", "epsilon": 0.2, "step": 0.2, "steps": 5}
"""As its authors bound the examples."""
PROXIES: list[str | Config] = [*Proxy.names(), AUTHORS]
BOTH = "max of inverted_trigger and universal_perturbation"
HELD = "held utility lost (no proxy)"
"""A baseline: whatever costs much accuracy may be thought to remove more of the backdoor."""
BUDGETS = (0.05, 0.10, 1.0)


def settings(draws: int) -> list[Config]:
    """Random NFT and a few of fine-tuning; the same for every victim."""
    found: list[Config] = []
    for draw in range(draws):
        random = numpy_rng(rng(0, "benchmarks/proxies", draw))

        def log(low: float, high: float, random: np.random.Generator = random) -> float:
            return float(f"{math.exp(random.uniform(math.log(low), math.log(high))):.3g}")

        nft: Config = {
            "lr": log(0.005, 0.5),
            "alpha": round(random.uniform(0, 1), 3),
            "beta": log(0.02, 2),
            "eta": log(1e-5, 1e-1),
        }
        nft |= {"bn": str(random.choice(["train", "eval", "recalibrate"])), "mixup": float(random.choice([0.0, 1.0]))}
        found.append({"name": "nft", **nft, "steps": round(log(50, 300))})
    lengths = [(0.003, 20), (0.01, 50), (0.03, 30), (0.1, 20), (0.1, 60), (0.3, 30)]
    return [*found, *({"name": "fine_tuning", "lr": lr, "epochs": epochs} for lr, epochs in lengths)]


def line_of(row: Row) -> Line:
    """What the tables need of a row: its ASR, what it lost on held-out samples, and every proxy, one more made of two."""
    values: dict[str, float] = json.loads(row.proxies)
    values[BOTH] = max(values["inverted_trigger"], values["universal_perturbation"])
    lost = row.held_utility_before - row.held_utility_after
    return {"asr": row.asr_after, "lost": lost, "values": {**values, HELD: -lost}, "before": row.asr_before}


def correlation(lines: list[Line], name: str) -> float:
    """Spearman's rho with the ASR; NaN of fewer than three or of all the same."""
    x, y = [line["values"][name] for line in lines], [line["asr"] for line in lines]
    return float(spearmanr(x, y).statistic) if len(lines) > 2 and len(set(x)) > 1 and len(set(y)) > 1 else math.nan


def picked(lines: list[Line], name: str) -> float:
    """The ASR of the setting with the lowest value; the mean over equals."""
    least = min(line["values"][name] for line in lines)
    return statistics.mean(line["asr"] for line in lines if line["values"][name] == least)


def panel(victims: dict[str, list[Line]]) -> list[Line]:
    """One line a setting: means over the victims, as a search sees it that cannot know the attack."""
    found = []
    for lines in zip(*victims.values(), strict=True):
        means = {name: statistics.mean(line["values"][name] for line in lines) for name in lines[0]["values"]}
        asr, lost = (statistics.mean(line[column] for line in lines) for column in ("asr", "lost"))
        found.append({"asr": asr, "lost": lost, "values": means})
    return found


def table(victims: dict[str, list[Line]], budget: float) -> str:
    """Rho and the picked ASR of each proxy, a column a victim; settings that lost more than the budget are left out."""
    kept = {name: [line for line in lines if line["lost"] <= budget] for name, lines in victims.items()}
    kept["panel mean"] = [line for line in panel(victims) if line["lost"] <= budget]
    together = [line for name in victims for line in kept[name]]
    names = list(together[0]["values"])
    body = [
        [
            name,
            *(
                f"{correlation(lines, name):.2f} / {_percent(picked(lines, name) if lines else math.nan)}"
                for lines in kept.values()
            ),
            f"{statistics.mean(correlation(kept[victim], name) for victim in victims):.2f}",
            f"{correlation(together, name):.2f}",
        ]
        for name in names
    ]
    for label, of in (("lowest ASR", min), ("mean ASR", statistics.mean), ("highest ASR", max)):
        body.append([label, *(_percent(of([r["asr"] for r in rs]) if rs else math.nan) for rs in kept.values()), "", ""])
    heads = [f"{name}, n={len(lines)}" for name, lines in kept.items()]
    return markdown(["", *heads, "mean rho of victims", f"rho of all, n={len(together)}"], body)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def costs(experiment: Experiment, store: Store, root: Path) -> str:
    """CPU seconds of each proxy on one victim: made once, and measured on the victim itself, the median of three."""
    splits, model = load(experiment.task.data, root), backdoor(experiment, store, root).model
    body = []
    for proxy in map(Proxy.of, PROXIES):
        clean = splits.held.take(proxy.draw(splits.held, rng(experiment.seed, "proxy")))
        started = time.process_time()
        made = "victim" in proxy.needs
        prepared = proxy.prepare(model, clean, experiment.task, len(splits.classes), rng(0)) if made else {}
        spent, all_fresh = [time.process_time() - started], torch.ones(len(clean), dtype=torch.bool)
        for _ in range(3):
            started = time.process_time()
            proxy.measure(model, prepared, clean, all_fresh, experiment.task)
            spent.append(time.process_time() - started)
        body.append([proxy.label(), f"{spent[0]:.1f}", f"{statistics.median(spent[1:]):.2f}"])
    return markdown(["proxy", "once a victim, CPU s", "each model, CPU s"], body)


def inversions(plain: Experiment, store: Store) -> list[str]:
    """What the two proxies that look for a target keep of a victim: the classes suspected, and how the target compares."""
    target, out = plain.attack.target, []
    for name, column in (("inverted_trigger", "norms"), ("universal_perturbation", "shares")):
        part = store.victim_part(plain.victim_key(), f"{name}.{Proxy.of(name).key()}")
        assert part is not None
        found, small = part[column], column == "norms"
        classes = suspects(found if small else -found)
        others = torch.cat([found[:target], found[target + 1 :]])
        least, most, own = (
            f"{float(v):.1f}" if small else _percent(float(v)) for v in (others.min(), others.max(), found[target])
        )
        out.append("none" if len(classes) == len(found) else ", ".join(map(str, classes)))
        out.append(f"{own} ({least} to {most})")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--store", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--attacks", nargs="+", default=["badnets", "blend", "sig", "wanet"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--only-table", action="store_true", help="of the settings whose rows every victim has; runs nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store, names = Store(options.store), [(attack, seed) for seed in options.seeds for attack in options.attacks]
    chosen = settings(options.draws)

    def experiment(attack: str, seed: int, defense: Config | str) -> Experiment:
        return Experiment.of({**VICTIM, "attack": attack, "seed": seed, "defense": defense})

    print(machine(), flush=True)
    if options.only_table:
        stored = set(store.rows("proxies")["key"].to_pylist())
        chosen = [d for d in chosen if all(experiment(attack, seed, d).key() in stored for attack, seed in names)]
    victims: dict[str, list[Line]] = {f"{attack} {seed}": [] for attack, seed in names}
    for number, defense in enumerate(chosen):
        for attack, seed in names:
            started = time.perf_counter()
            row = run(experiment(attack, seed, defense), store, options.data, "proxies", proxies=PROXIES)
            line = line_of(row)
            victims[f"{attack} {seed}"].append(line)
            if not options.only_table:
                took = f"{time.perf_counter() - started:.0f} s"
                print(f"{number + 1}/{len(chosen)} {attack} {seed}: ASR {_percent(line['asr'])}, {took}", flush=True)
    first = {name: lines[0]["before"] for name, lines in victims.items()}
    body = [
        [name, _percent(first[name]), str(plain.attack.target), *inversions(plain, store)]
        for name, plain in zip(victims, (experiment(*pair, "none") for pair in names), strict=True)
    ]
    heads = ["inverted_trigger suspects", "L1 of the target's mask (of the others')"]
    heads += ["universal_perturbation suspects", "percent that follow the target's (the others')"]
    print(markdown(["victim", "ASR", "target", *heads], body))
    for budget in BUDGETS:
        print(f"\nheld utility lost at most {budget}: rho / ASR of the setting with the lowest value, percent\n")
        print(table(victims, budget))
    print()
    print(costs(experiment(*names[0], "none"), store, options.data))


if __name__ == "__main__":
    main()
