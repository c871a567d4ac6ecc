"""Tables II, III, IV and VII of AdvrBD (arXiv 2405.12719) on CIFAR-10; V and VII's clean columns: advrbd_rates.py, VI:
advrbd_models.py.

bdray sweep sweeps/advrbd_tables.py; bdray table --sweep advrbd_tables --paper advrbd

Another data set: task.data=imagenette. A class of cifar100 or tiny_imagenet is too small for SIG and TaCT at 0.05; without the
two: task.data=cifar100 attack.preset=advrbd
'attack=["badnets","blend","wanet","physical","adaptive_blend","adaptive_patch"]'

The recipe is that of BackdoorBox, the paper's toolbox as far as can be told, but for two things: BackdoorBox lowers the rate to
a tenth after 150 and 180 epochs, here it follows a cosine; it mirrors images, here they are cropped, too. Fine-tuning is
BackdoorBox's; the other defenses have the defaults of their files. SCAn, the paper's other baseline, is missing.
"""

from ray import tune

from bdray.launch import Sweep

ATTACKS = ["badnets", "blend", "sig", "wanet", "physical", "tact", "adaptive_blend", "adaptive_patch"]

sweep = Sweep(
    space={
        "task": {"name": "image", "data": "cifar10", "model": "resnet18"},
        "training": {"epochs": 200, "batch": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"},
        "attack": tune.grid_search([{"name": name, "preset": "advrbd"} for name in ATTACKS]),
        "defense": tune.grid_search(
            [
                "none",
                {"name": "fine_tuning", "epochs": 10, "batch": 128, "lr": 0.001, "schedule": "constant"},
                "fine_pruning",
                "cutmix",
                "clp",
                "dbr",
                "abl",
                {"name": "advrbd", "relabel": False},
                {"name": "advrbd", "relabel": True},
            ]
        ),
        "seed": tune.grid_search([0, 1, 2]),
    },
)
