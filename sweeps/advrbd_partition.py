"""A search of AdvrBD's partition and unlearning over a panel of four attacks, by what a defender can tell who has nothing but
the poisoned training set. bdray sweep sweeps/advrbd_partition.py --data DIR; bdray best advrbd_partition --by training

SIG is not in the panel: its labels are true, and this objective cannot tell it from clean samples. At most 4 x 0.1 of the
training set are taken for clean, so that less than half of it is ever unlearnt. Data and model are advrbd_cpu.py's, and the
recipe, but in batches of 128.
"""

from ray import tune

from bdray.launch import Sweep

sweep = Sweep(
    space={
        "task": {
            "name": "image",
            "data": {"name": "cifar10", "limit": 4445},  # 4,001 to train on, 444 held out
            "model": {"name": "resnet18", "width": 8},
        },
        "training": {"epochs": 10, "lr": 0.1, "schedule": "onecycle", "augment": False},
        "defense": {
            "name": "advrbd",
            "augment": False,
            "warmup": tune.choice([5, 10]),
            "partition_rate": tune.loguniform(0.01, 0.1),
            "iterations": tune.choice([1, 2, 4]),
            "radius": tune.uniform(0.0625, 0.25),
            "eps": tune.loguniform(4.0, 64.0),
            "steps": tune.choice([1, 3]),
            "lr": tune.loguniform(1e-3, 1e-1),
            "cap": tune.choice(["loss", "flooding", "accuracy"]),
            "balanced": tune.choice([False, True]),
            "relearn_rate": tune.choice([0.05, 0.2, 1.0]),
        },
    },
    panel={"attack": [{"name": name, "preset": "advrbd"} for name in ("blend", "badnets", "wanet", "adaptive_blend")]},
    samples=16,
    search="optuna",
    scheduler="asha",
    objective="training",
)
