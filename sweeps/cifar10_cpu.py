"""Real CIFAR-10 at a size that two CPU cores can train: four attacks, four defenses, three seeds, 1 % and one-shot clean
data. bdray sweep sweeps/cifar10_cpu.py --data DIR"""

from ray import tune

from bdray.launch import Sweep

sweep = Sweep(
    space={
        "task": {
            "name": "image",
            "data": {"name": "cifar10", "limit": 13334},  # 12,001 to train on, 1,333 held out
            "model": {"name": "resnet18", "width": 8},
        },
        "training": {"epochs": 30, "lr": 0.1, "schedule": "onecycle", "precision": "bfloat16"},
        "attack": tune.grid_search(["badnets", "blend", "sig", "wanet"]),
        "defense": tune.grid_search(
            ["none"] + [{"name": name, "shots": shots} for name in ("fine_tuning", "fine_pruning", "nft") for shots in (0, 1)]
        ),
        "seed": tune.grid_search([0, 1, 2]),
    },
)
