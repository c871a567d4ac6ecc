"""Fine-pruning (Liu, Dolan-Gavitt and Garg 2018, arXiv 1805.12185): channels that clean inputs leave asleep are cut, then
the model is fine-tuned."""

from collections import Counter

import torch
from torch import Tensor, nn

from bdray.defenses import Defended, Evidence
from bdray.defenses._finetune import Tuned
from bdray.layers.masks import fold, put
from bdray.samples import Samples
from bdray.spec import Incompatible, Share
from bdray.task import Task
from bdray.training import Report


class Columns(nn.Module):
    """Keeps some input columns of a weight at zero."""

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.keep


class FinePruning(Tuned):
    """Prunes the inputs of the last linear layer, as BackdoorBench does, in steps of a hundredth, while the accuracy on the
    defender's own clean samples stays within `max_drop` of the start. BackdoorBench measures that drop on the test set. Which
    channels sleep is told from these samples as they are; BackdoorBench passes them through the augmentation of training.
    A layer that shares its weight with others, as a translator's last one does with the embeddings, is passed over."""

    max_drop: Share = 0.1
    """Relative to the accuracy, or other utility, before pruning."""

    def fits(self, model: nn.Module, task: Task) -> None:
        if last_linear(model) is None:
            raise Incompatible(
                f"the defense 'fine_pruning' prunes the inputs of a linear layer, and the model {task.model.name!r} has none "
                "with a weight of its own; choose another"
            )

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        model, clean = evidence.model, evidence.clean
        assert model is not None
        assert clean is not None
        head = last_linear(model)
        assert head is not None
        order = mean_inputs(model, head, clean, task).argsort()
        columns = Columns(torch.ones(head.in_features, device=head.weight.device))
        put(head, columns)
        start = task.score(task.predict(model, clean), clean.targets)
        for percent in range(1, 100):
            before = columns.keep.clone()
            columns.keep[order[: round(percent / 100 * len(order))]] = 0
            accuracy = task.score(task.predict(model, clean), clean.targets)
            report(percent, clean_utility=accuracy)
            if accuracy < start * (1 - self.max_drop):
                columns.keep.copy_(before)
                break
        self.tune(model, clean, task, rng, lambda step, **m: report(100 + step, **m))
        fold(head)
        return Defended(model)


def last_linear(model: nn.Module) -> nn.Linear | None:
    """The last linear layer whose weight is no other layer's, too: a column cut from that would be cut from the embeddings."""
    uses = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and uses[id(m.weight)] == 1]
    return linear[-1] if linear else None


def mean_inputs(model: nn.Module, layer: nn.Module, clean: Samples, task: Task) -> Tensor:
    """The mean activation of each input of a layer over the samples, [in_features], in eval mode."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2).sum(0)))
    task.predict(model, clean)
    hook.remove()
    return torch.stack(seen).sum(0) / len(clean)
