"""Table V of AdvrBD (arXiv 2405.12719) on CIFAR-10, poison rates 0, 0.1, 0.15 and 0.2, and the clean columns of Table VII.

bdray sweep sweeps/advrbd_rates.py; bdray table --sweep advrbd_rates --paper advrbd

Rate 0 is no attack: its ASR is how often a stamped image is taken for the target class by mere error. SIG is left out, as in
the paper. So is TaCT at 0.15 and 0.2, which the paper has: its source class is a tenth of the training set. Its 0.1 is 0.095
here: of the images that are not held out the source class has about a tenth, by chance a few less. The recipe is that of
advrbd_tables.py.
"""

from ray import tune

from bdray.launch import Sweep

ATTACKS = ["badnets", "blend", "wanet", "physical", "adaptive_blend", "adaptive_patch"]

sweep = Sweep(
    space={
        "task": {"name": "image", "data": "cifar10", "model": "resnet18"},
        "training": {"epochs": 200, "batch": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"},
        "attack": tune.grid_search(
            [
                {"name": "badnets", "preset": "advrbd", "rate": 0.0},
                {"name": "tact", "preset": "advrbd", "rate": 0.095},
                *({"name": name, "preset": "advrbd", "rate": rate} for name in ATTACKS for rate in (0.1, 0.15, 0.2)),
            ]
        ),
        "defense": tune.grid_search(["none", {"name": "advrbd", "relabel": False}]),
        "seed": tune.grid_search([0, 1, 2]),
    },
)
