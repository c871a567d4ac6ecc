"""Task: what a modality must say, so that training, attacks, defenses and scores can be written once for all of them."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from bdray.data import Data
from bdray.models import Model
from bdray.needs import Needs
from bdray.samples import Column, Outline, Rows, Samples, Splits, equal
from bdray.seeds import seed_of
from bdray.spec import Config, Spec


class Batch(NamedTuple):
    """Model-ready inputs and their targets; a mixed batch carries the partner's targets and the weight of its own."""

    inputs: Any
    targets: Any
    partner: Any = None
    weight: float = 1.0

    def to(self, device: torch.device) -> Self:
        """The batch on a device."""
        partner = None if self.partner is None else self.partner.to(device)
        return type(self)(self.inputs.to(device), self.targets.to(device), partner, self.weight)


class Task(Spec):
    """A modality: how samples are batched, learnt from and scored. Members live in the top-level folder `tasks`, which the
    package holds a link to."""

    folder: ClassVar[str] = "bdray.tasks"
    kind: ClassVar[str] = "task"
    modality: ClassVar[str]
    utility: ClassVar[str]
    """The name of the clean score: accuracy, bleu, map50. Every utility is 0 to 1."""
    suited: ClassVar[dict[str, Config]] = {}
    """The `attack`, the `training` and the `defense` of an experiment that says nothing of them, where they are not those of
    `Experiment`."""

    space: ClassVar[Literal["", "pixels", "points", "words"]] = ""
    """What `soften` gives, for a defense that moves it: pixels, 0..1 on a grid, [N, C, H, W] or [N, C, T, H, W]; points,
    coordinates [N, P, axes]; words, embeddings [N, L, width]. Empty: nothing that any of them knows, or targets that are no
    classes."""

    victim_needs: ClassVar[Needs] = Needs(1, 1, 2)
    """Of the training of a victim, at the size of the task's defaults, as measured; without a GPU where there is none."""
    cell_needs: ClassVar[Needs] = Needs(1, 0.25, 2)
    """Of a defense and its scores."""

    data: Data
    model: Model

    def stem(self) -> tuple[str, ...]:
        """Names of the stem's modules in the built model."""
        return self.model.stem

    def outline(self, splits: Splits) -> Outline:
        """What a fresh model for these splits needs to know."""
        inputs = splits.train.inputs
        if isinstance(inputs, Rows):
            return Outline(tuple(splits.classes))
        return Outline(tuple(splits.classes), tuple(inputs.shape[1:]), kind=inputs.dtype)

    def build(self, outline: Outline, rng: torch.Generator) -> nn.Module:
        """A fresh model whose weights depend on `rng` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(int(torch.randint(2**62, (1,), generator=rng))))
            return self.network(outline)

    def network(self, outline: Outline) -> nn.Module:
        """The network for such data, initialised from torch's global generator."""
        return self.model.build(outline)

    def example(self, outline: Outline) -> Samples:
        """One made sample, to look at a model with: of zeros where inputs are dense."""
        return Samples(torch.zeros(1, *outline.shape, dtype=outline.kind), torch.zeros(1, dtype=torch.int64))

    def collate(self, samples: Samples) -> Batch:
        """Samples at rest as a model-ready batch, where the samples are: unchanged unless the model takes something else. Texts
        stay texts: their model has the vocabulary."""
        return Batch(samples.inputs, samples.targets)

    def augment(self, samples: Samples, rng: torch.Generator) -> Samples:
        """Training-time augmentation; unchanged unless the modality has one."""
        return samples

    @abstractmethod
    def criterion(self, outputs: Any, targets: Any) -> Tensor:
        """The training loss, a scalar: the mean over the batch."""
        raise NotImplementedError

    def mix_inputs(self, inputs: Any, other: Any, weight: float) -> Any:
        """This modality's MixUp of two batches of inputs; a task without it is skipped by what mixes (see `mixes`)."""
        raise NotImplementedError

    def mixes(self) -> bool:
        """Whether it says how inputs are mixed."""
        return type(self).mix_inputs is not Task.mix_inputs or type(self).mix is not Task.mix

    def soften(self, model: nn.Module, batch: Batch) -> Tensor:
        """A batch where the model's input is continuous, [N, ...]: pixels, coordinates, the embeddings of words."""
        found: Tensor = batch.inputs
        return found

    def harden(self, model: nn.Module, soft: Tensor, batch: Batch) -> Any:
        """The model from there on: its outputs for the softened batch, or for one that was moved."""
        return model(soft)

    def words(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of a softened batch whose space is words: which places hold one, bool [N, L]; padding and special tokens do not."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, model: nn.Module, samples: Samples) -> Any:
        """What the model says of each sample, a column in order, in eval mode, without augmentation. Raises FloatingPointError
        where it says no finite number: the best of NaNs is the first class."""
        raise NotImplementedError

    @abstractmethod
    def score(self, predictions: Any, targets: Any) -> float:
        """The utility, 0 to 1; NaN of no samples. Of all samples together: BLEU and mAP are no means over parts."""
        raise NotImplementedError

    def correct(self, predictions: Column, targets: Column) -> Tensor:
        """Which predictions are right, bool [N] on the CPU."""
        return equal(predictions, targets)

    def mix(self, batch: Batch, order: Tensor, weight: float) -> Batch:
        """MixUp (Zhang et al. 2018) of a batch with itself in another order: weight of its own, the rest of the partner."""
        inputs = self.mix_inputs(batch.inputs, batch.inputs[order], weight)
        return Batch(inputs, batch.targets, batch.targets[order], weight)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch, mixed or not: losses are interpolated, never targets."""
        outputs = model(batch.inputs)
        own = self.criterion(outputs, batch.targets)
        if batch.partner is None:
            return own
        return batch.weight * own + (1 - batch.weight) * self.criterion(outputs, batch.partner)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of each sample alone, float [N], of a batch that is not mixed."""
        outputs = model(batch.inputs)
        return torch.stack([self.criterion(outputs[i : i + 1], batch.targets[i : i + 1]) for i in range(len(batch.targets))])

    def teaches(self, samples: Samples) -> Tensor:
        """Which samples have something to be learnt of, bool [N] on the CPU: the loss of the others says nothing."""
        return torch.ones(len(samples), dtype=torch.bool)
