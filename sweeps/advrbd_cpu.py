"""Real CIFAR-10 at a size that two CPU cores can train: AdvrBD's eight attacks with its paper's settings against AdvrBD at its
defaults, with relabelling and with our remedy (three seeds of the defense on one victim), its relatives and the sanity bounds.

bdray sweep sweeps/advrbd_cpu.py --data DIR
bdray sweep sweeps/advrbd_cpu.py --data DIR 'attack={"name":"physical","preset":"advrbd"}' \
    training.augment=true training.batch=32 training.epochs=20

Without augmentation a small trigger is learnt in a few epochs, and a class of 400 images is remembered. The second command is
PhysicalBA's, whose trigger, moved and turned in the 200 images that bear it, is learnt only where the clean ones move, too, and
in ten epochs by luck.
"""

from ray import tune

from bdray.launch import Sweep
from bdray.spec import Config

ATTACKS = ("badnets", "blend", "sig", "wanet", "tact", "adaptive_blend", "adaptive_patch")
WAYS: tuple[Config, ...] = ({}, {"relabel": True, "relabel_epochs": 5}, {"preset": "remedy"})

sweep = Sweep(
    space={
        "task": {
            "name": "image",
            "data": {"name": "cifar10", "limit": 4445},  # 4,001 to train on, 444 held out
            "model": {"name": "resnet18", "width": 8},
        },
        "training": {"epochs": 10, "batch": 64, "lr": 0.1, "schedule": "onecycle", "augment": False},
        "attack": tune.grid_search([{"name": name, "preset": "advrbd"} for name in ATTACKS]),
        "defense": tune.grid_search(
            [
                "none",
                "perfect_filter",
                "random_filter",
                # Ways of one seed share a warm-up; side by side they would all train it.
                *({"name": "advrbd", **way, "seed": seed} for way in WAYS for seed in (0, 1, 2)),
                {"name": "abl", "finetuning_epochs": 10, "finetuning_drop": 7},
                "dbr",
                "cutmix",
                "clp",
            ]
        ),
    },
)
