"""The demo: digits, three attacks, the sanity bounds and several draws of NFT, two seeds. bdray sweep sweeps/demo.py"""

from ray import tune

from bdray.launch import Sweep

sweep = Sweep(
    space={
        "task": {"name": "image", "data": "digits", "model": {"name": "resnet18", "width": 8}},
        "attack": tune.grid_search(
            # digits are so easy that a clean-label attack needs a strong trigger in most of the class
            ["badnets", "blend", {"name": "sig", "rate": 0.08, "delta": 80.0}]
        ),
        "training": {"epochs": 15, "lr": 0.1},
        "defense": tune.grid_search(
            [
                "none",
                "perfect_filter",
                {"name": "fine_tuning", "shots": 10},
                {
                    "name": "nft",
                    "shots": 10,
                    "steps": 200,
                    "batch": 64,
                    "lr_every": 40,
                    "lr": tune.loguniform(0.02, 0.5),
                    "alpha": tune.uniform(0.0, 1.0),
                    "eta": tune.loguniform(1e-4, 1e-1),
                    "bn": tune.choice(["train", "eval", "recalibrate"]),
                },
            ]
        ),
        "seed": tune.grid_search([0, 1]),
    },
    samples=4,
)
