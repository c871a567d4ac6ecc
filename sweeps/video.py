"""Video: every attack on clips against the bounds and both methods, three seeds, on made clips. bdray sweep sweeps/video.py

SIG, WaNet and UAT do not plant on these small clips as they are published: their settings here were chosen on seed 0, by the
victim's ASR.

Real ones: bdray sweep sweeps/video.py task.data=ucf101 --data FOLDER

What it gave: docs/results/video_cpu.md.
"""

from ray import tune

from bdray.launch import Sweep

UAT = {"name": "uat", "rate": 0.16, "size": 12, "trigger_steps": 2000, "trigger_batch": 4, "eps": 32, "step": 4, "steps": 20}

sweep = Sweep(
    space={
        "task": "video",
        "attack": tune.grid_search(
            [
                "badnets",
                "blend",
                "tdba",
                {"name": "sig", "rate": 0.15, "delta": 80},
                {"name": "wanet", "strength": 4, "cover": 0},
                UAT,
            ]
        ),
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
