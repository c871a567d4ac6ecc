"""Video: every attack on clips against the bounds and both methods, three seeds, on made clips. bdray sweep sweeps/video.py

Real ones: bdray sweep sweeps/video.py task.data=ucf101 --data FOLDER

What it gave: docs/results/video_cpu.md.
"""

from ray import tune

from bdray.launch import Sweep

sweep = Sweep(
    space={
        "task": "video",
        "attack": tune.grid_search(["badnets", "blend", "sig", "wanet", "tdba", {"name": "uat", "trigger_steps": 1000}]),
        "defense": tune.grid_search(
            [
                "none",
                "perfect_filter",
                {"name": "fine_tuning", "clean": 0.07, "epochs": 20},
                {"name": "nft", "clean": 0.05, "steps": 100, "batch": 32},
                "advrbd",
            ]
        ),
        "seed": tune.grid_search([0, 1, 2]),
    },
)
