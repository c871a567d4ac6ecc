"""Is there a setting of AdvrBD that keeps the accuracy and the target class of a perfect filter? Over its iterations, the rule
by which it isolates and the way it unlearns, on four attacks that plant.

bdray sweep sweeps/advrbd_isolation.py --data DIR

Model and recipe are advrbd_cpu.py's, on half as many images again and without augmentation: with it BadNets does not plant.
"""

from ray import tune

from bdray.launch import Sweep

ATTACKS = ("blend", "badnets", "sig", "adaptive_blend")

sweep = Sweep(
    space={
        "task": {
            "name": "image",
            "data": {"name": "cifar10", "limit": 6667},  # 6,000 to train on, 667 held out
            "model": {"name": "resnet18", "width": 8},
        },
        "training": {"epochs": 10, "batch": 64, "lr": 0.1, "schedule": "onecycle", "augment": False},
        "attack": tune.grid_search([{"name": name, "preset": "advrbd"} for name in ATTACKS]),
        "defense": tune.grid_search(
            [
                "none",
                "perfect_filter",
                *(
                    {"name": "advrbd", "iterations": iterations, "isolate": rule, "unlearn_by": way}
                    for way in ("ascent", "wrong_labels")
                    for iterations in (2, 10)
                    for rule in ("argmax", "loss")
                ),
            ]
        ),
    },
)
