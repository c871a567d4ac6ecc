"""Every task: the bounds, fine-tuning, NFT of 100 steps over four draws, and AdvrBD where it applies, two seeds, on made data;
its attack and its model are the task's own. bdray sweep sweeps/all_modalities.py

Models that nobody attacked, beside them: bdray sweep sweeps/all_modalities.py attack.rate=0 defense=none

What it gave: docs/results/modalities_cpu.md.
"""

from ray import tune

from bdray.launch import Sweep

sweep = Sweep(
    space={
        "task": tune.grid_search(["image", "video", "points", "text", "translation", "detection"]),
        "defense": tune.grid_search(
            [
                "none",
                "perfect_filter",
                {"name": "fine_tuning", "clean": 0.07, "epochs": 20},
                {"name": "nft", "steps": 100, "lr": tune.loguniform(0.02, 0.5), "alpha": tune.uniform(0.0, 1.0)},
                "advrbd",
            ]
        ),
        "seed": tune.grid_search([0, 1]),
    },
    samples=4,
)
