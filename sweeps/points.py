"""Point clouds: every attack on them against the bounds, both methods and the defenses that look at a cloud's points, three
seeds, on made meshes. bdray sweep sweeps/points.py

Real ones: bdray sweep sweeps/points.py task.data=modelnet --data FOLDER

What it gave: docs/results/points_cpu.md.
"""

from ray import tune

from bdray.launch import Sweep

sweep = Sweep(
    space={
        "task": "points",
        "attack": tune.grid_search(
            [
                {"name": "pointpba_i", "rate": 0.2},
                {"name": "pointpba_o", "rate": 0.2, "axis": "x"},
                {"name": "irba", "rate": 0.2},
                {"name": "pcba", "rate": 0.1},
                {"name": "pointcba", "rate": 0.1},
            ]
        ),
        "defense": tune.grid_search(
            [
                "none",
                "perfect_filter",
                {"name": "fine_tuning", "clean": 0.07, "epochs": 20},
                {"name": "nft", "clean": 0.1, "steps": 100, "batch": 32},
                "advrbd",
                "sor",
                "ror",
            ]
        ),
        "seed": tune.grid_search([0, 1, 2]),
    },
)
