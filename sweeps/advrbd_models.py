"""Table VI of AdvrBD (arXiv 2405.12719): ResNet-34 and MobileNetV2 on CIFAR-10, each attack and none (rate 0).

bdray sweep sweeps/advrbd_models.py; bdray table --sweep advrbd_models --paper advrbd

The recipe is that of advrbd_tables.py.
"""

from ray import tune

from bdray.launch import Sweep

ATTACKS = ["badnets", "blend", "sig", "wanet", "physical", "tact", "adaptive_blend", "adaptive_patch"]

sweep = Sweep(
    space={
        "task": {"name": "image", "data": "cifar10", "model": tune.grid_search(["resnet34", "mobilenet_v2"])},
        "training": {"epochs": 200, "batch": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"},
        "attack": tune.grid_search(
            [{"name": "badnets", "preset": "advrbd", "rate": 0.0}, *({"name": name, "preset": "advrbd"} for name in ATTACKS)]
        ),
        "defense": tune.grid_search(["none", {"name": "advrbd", "relabel": False}]),
        "seed": tune.grid_search([0, 1, 2]),
    },
)
