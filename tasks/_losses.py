"""What the tasks share whose networks must see the targets to tell a loss: translations, boxes."""

from typing import Any

from torch import Tensor, nn

from bdray.task import Batch, Task


class OwnLosses(Task):
    """Its models take a batch's inputs and a list of targets, and give the losses of each sample for each of these, float
    [targets, N]."""

    def criterion(self, outputs: Any, targets: Any) -> Tensor:
        """Of the losses that `harden` gives, which know the targets."""
        found: Tensor = outputs.mean()
        return found

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        found: Tensor = model(batch.inputs, [batch.targets])[0]
        return found

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of a mixed batch, the losses for both targets, mixed as the inputs are."""
        if batch.partner is None:
            return self.losses(model, batch).mean()
        own, partner = model(batch.inputs, [batch.targets, batch.partner]).mean(1)
        found: Tensor = batch.weight * own + (1 - batch.weight) * partner
        return found
