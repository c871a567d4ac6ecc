"""Real CIFAR-10 at a size that two CPU cores can train: AdvrBD's eight attacks with its paper's settings against AdvrBD, alone,
with relabelling and with our remedy (three seeds of the defense on one victim), its relatives and the sanity bounds.
bdray sweep sweeps/advrbd_cpu.py --data DIR"""

from ray import tune

from bdray.launch import Sweep

ATTACKS = ("badnets", "blend", "sig", "wanet", "physical", "tact", "adaptive_blend", "adaptive_patch")
ADVRBD = {"name": "advrbd", "warmup": 10, "partition_rate": 0.05, "iterations": 3, "steps": 3, "lr": 0.01}
"""As many epochs as two cores allow; the defaults ask for more than twice the time."""

sweep = Sweep(
    space={
        "task": {
            "name": "image",
            "data": {"name": "cifar10", "limit": 13334},  # 12,001 to train on, 1,333 held out
            "model": {"name": "resnet18", "width": 8},
        },
        "training": {"epochs": 30, "lr": 0.1, "schedule": "onecycle", "precision": "bfloat16"},
        "attack": tune.grid_search([{"name": name, "preset": "advrbd"} for name in ATTACKS]),
        "defense": tune.grid_search(
            [
                "none",
                "perfect_filter",
                "random_filter",
                *({**ADVRBD, **way, "seed": s} for way in ({}, {"relabel": True}, {"balanced": True}) for s in (0, 1, 2)),
                {"name": "abl", "finetuning_epochs": 30, "finetuning_drop": 20},
                "dbr",
                "cutmix",
                "clp",
            ]
        ),
    },
)
