"""Real CIFAR-10 at a size that two CPU cores can train: AdvrBD's eight attacks with its paper's settings against AdvrBD at its
defaults but for augmentation, with relabelling and with our remedy (three seeds of the defense on one victim), its relatives
and the sanity bounds.

bdray sweep sweeps/advrbd_cpu.py --data DIR

Without augmentation a small trigger is learnt in a few epochs, and a class of 400 images is remembered.
"""

from ray import tune

from bdray.launch import Sweep
from bdray.spec import Config

ATTACKS = ("badnets", "blend", "sig", "wanet", "physical", "tact", "adaptive_blend", "adaptive_patch")
ADVRBD: Config = {"name": "advrbd", "augment": False}
"""As the recipe below has it."""
WAYS: tuple[Config, ...] = ({}, {"relabel": True, "relabel_epochs": 5}, {"preset": "remedy"})

sweep = Sweep(
    space={
        "task": {
            "name": "image",
            "data": {"name": "cifar10", "limit": 4445},  # 4,001 to train on, 444 held out
            "model": {"name": "resnet18", "width": 8},
        },
        "training": {"epochs": 10, "lr": 0.1, "schedule": "onecycle", "augment": False},
        "attack": tune.grid_search([{"name": name, "preset": "advrbd"} for name in ATTACKS]),
        "defense": tune.grid_search(
            [
                "none",
                "perfect_filter",
                "random_filter",
                *({**ADVRBD, **way, "seed": 0} for way in WAYS),
                {"name": "abl", "finetuning_epochs": 10, "finetuning_drop": 7},
                "dbr",
                "cutmix",
                "clp",
                *({**ADVRBD, **way, "seed": seed} for seed in (1, 2) for way in WAYS),
            ]
        ),
    },
)
