"""NFT, neural mask fine-tuning (Karim et al., ECCV 2024, arXiv 2407.10052): one multiplier a channel is learnt on clean,
mixed samples, kept above a floor that falls with depth, and folded back into the weights.

The defaults are those of the authors' code: BatchNorm scales without the stem, SGD with momentum on the masks alone, 1,000
steps whose rate falls on a cosine every 200, MixUp in every step, batch statistics that go on being updated.
"""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bdray.defenses import Defended, Defense, Evidence
from bdray.layers.masks import fold, put
from bdray.samples import Samples
from bdray.seeds import numpy_rng
from bdray.spec import BatchSize, Count, Incompatible, NonNegative, Positive, Share
from bdray.task import Batch, Task
from bdray.training import Report, device, parts

ROWS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Mask(nn.Module):
    """Multiplies a weight along one axis; one value per output channel, at first 1."""

    def __init__(self, weight: Tensor, axis: int) -> None:
        super().__init__()
        self.shape = [-1 if a == axis else 1 for a in range(weight.dim())]
        self.values = nn.Parameter(torch.ones(weight.shape[axis], device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.values.view(self.shape)


class Masked(NamedTuple):
    """A module whose weight is masked; the bias never is."""

    name: str
    module: nn.Module
    mask: Mask
    floor: float


class Nft(Defense):
    """Works on any model that has a layer of the kind `site`. On models without BatchNorm choose rows or layernorm."""

    needs: ClassVar[frozenset[str]] = frozenset({"model", "clean"})

    site: Literal["batchnorm", "rows", "layernorm"] = "batchnorm"
    """What is masked: BatchNorm scales, output rows of convolutions and linear layers, or LayerNorm scales."""
    stem: bool = False
    """Whether the stem is masked too, where the model names one."""
    head: bool = False
    """Whether the last linear layer is masked too; only rows can."""
    alpha: Share = 0.8
    """The floor of mask l is alpha * exp(-beta * l); 0 is no floor."""
    beta: NonNegative = 0.5
    index: Literal["mask", "block", "depth"] = "mask"
    """l: the number of the mask from 1 (the authors'), of its block, or the mask's number / all masks."""
    upper: Positive = 1.0
    """The masks' upper bound; 1 lets them only shrink."""
    norm: Literal["l1", "l2", "linf"] = "l1"
    """Of 1 - mask, in the regularizer; l2 is squared."""
    eta: NonNegative = 1e-3
    """The regularizer's coefficient."""
    reduction: Literal["sum", "mean"] = "sum"
    """Over all masks."""
    per_class: bool = True
    """Divide the coefficient by the number of clean samples per class; without classes, by all of them."""
    mixup: NonNegative = 1.0
    """MixUp's lambda, one a batch, is drawn from Beta(mixup, mixup); 0 turns it off."""
    bn: Literal["train", "eval", "recalibrate"] = "train"
    """train: batch statistics, running ones updated on mixed batches; eval: running ones, untouched; recalibrate: as train,
    then estimated afresh on the clean samples, neither mixed nor augmented."""
    steps: Count = 1000
    lr: Positive = 0.05
    momentum: Share = 0.95
    lr_end: Share = 0.4
    """Where the cosine ends, as a share of lr: the authors' 0.02 of 0.05."""
    lr_every: Count = 200
    """Steps between two changes of the rate."""
    batch: BatchSize = 128
    replacement: bool = True
    """Draw each batch with replacement; else go through the clean samples in turn, shuffled each time."""
    augment: bool = True

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        model, clean, outline = evidence.model, evidence.clean, evidence.outline
        assert model is not None
        assert clean is not None
        assert outline is not None
        clean = clean.to(device())
        wanted = {p: p.requires_grad for p in model.parameters()}
        model.requires_grad_(False)
        masked = self.attach(model, task)
        masks: list[Tensor] = [m.mask.values for m in masked]
        optimizer = torch.optim.SGD(masks, self.lr, momentum=self.momentum)
        coefficient = self.eta * (max(1, len(outline.classes)) / len(clean) if self.per_class else 1.0)
        model.train(self.bn != "eval")
        for step, batch in enumerate(self.draws(clean, task, rng)):
            for group in optimizer.param_groups:
                group["lr"] = self.lr_at(step)
            loss = task.loss(model, batch) + coefficient * self.distance(masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clamp(masked, self.upper)
            if (step + 1) % 50 == 0 or step + 1 == self.steps:
                report(step + 1, loss=float(loss.detach()), mask_mean=float(torch.cat(masks).detach().mean()))
        if self.bn == "recalibrate":
            recalibrate(model, clean, task, self.batch)
        table = masks_table(masked)
        for _, module, _, _ in masked:
            fold(module)
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)
        return Defended(model.eval(), tables={"masks": table})

    def fits(self, model: nn.Module, task: Task) -> None:
        if self.mixup and not task.mixes():
            raise Incompatible(
                f"the defense 'nft' mixes its samples, and the task {task.name!r} does not say how (mix_inputs); set "
                "defense.mixup=0"
            )
        if not self.sites(model, task):
            raise Incompatible(
                f"the defense 'nft' with site={self.site} finds no such layer in the model {task.model.name!r}; choose another "
                "defense.site"
            )
        if self.site == "rows" and self.bn != "eval" and any(isinstance(m, _BatchNorm) for m in model.modules()):
            raise Incompatible(
                f"the defense 'nft' with site=rows and bn={self.bn} does nothing on a model with BatchNorm, whose batch "
                "statistics cancel a mask on the rows before it; set defense.bn=eval"
            )

    def floor(self, index: float) -> float:
        """mu(l), the lower bound of mask l."""
        return self.alpha * math.exp(-self.beta * index)

    def lr_at(self, step: int) -> float:
        """The rate of a step: constant for `lr_every` steps, then the next value of the cosine."""
        passes = math.ceil(self.steps / self.lr_every)
        low = self.lr_end * self.lr
        return low + (self.lr - low) * (1 + math.cos(math.pi * (step // self.lr_every) / passes)) / 2

    def distance(self, masks: list[Tensor]) -> Tensor:
        """The regularizer: how far the masks are from 1."""
        gap = (1 - torch.cat(masks)).abs()
        if self.norm == "linf":
            return gap.max()
        total = gap.sum() if self.norm == "l1" else gap.square().sum()
        return total / len(gap) if self.reduction == "mean" else total

    def draws(self, clean: Samples, task: Task, rng: torch.Generator) -> Iterator[Batch]:
        """`steps` batches, augmented and then mixed, each with a partner order and one lambda."""
        beta = numpy_rng(rng)
        waiting: list[Tensor] = []
        for _ in range(self.steps):
            if self.replacement:
                positions = torch.randint(len(clean), (self.batch,), generator=rng)
            else:
                waiting = waiting or parts(torch.randperm(len(clean), generator=rng), self.batch)
                positions = waiting.pop(0)
            part = clean.take(positions)
            batch = task.collate(task.augment(part, rng) if self.augment else part).to(device())
            if self.mixup:
                partner = torch.randperm(len(positions), generator=rng)
                batch = task.mix(batch, partner, float(beta.beta(self.mixup, self.mixup)))
            yield batch

    def attach(self, model: nn.Module, task: Task) -> list[Masked]:
        """Put a mask of ones on every site, in the order of the model's parameters."""
        self.fits(model, task)
        sites = self.sites(model, task)
        blocks: dict[str, int] = {}
        masked = []
        for number, (name, module) in enumerate(sites, start=1):
            weight = module.weight
            assert isinstance(weight, Tensor)
            mask = Mask(weight, axis=1 if isinstance(module, TRANSPOSED) else 0)
            put(module, mask)
            block = blocks.setdefault(block_of(name), len(blocks) + 1)
            index = {"mask": number, "block": block, "depth": number / len(sites)}[self.index]
            masked.append(Masked(name, module, mask, min(self.floor(index), self.upper)))
        return masked

    def sites(self, model: nn.Module, task: Task) -> list[tuple[str, nn.Module]]:
        """The layers to mask, by name."""
        kinds = {"batchnorm": (_BatchNorm,), "rows": ROWS + TRANSPOSED, "layernorm": (nn.LayerNorm,)}[self.site]
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        spared = () if self.stem else task.stem()
        if self.site == "rows" and not self.head:
            spared = (*spared, *linear[-1:])
        return [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, kinds)
            and getattr(module, "weight", None) is not None
            and not any(name == s or name.startswith(f"{s}.") for s in spared)
        ]


def block_of(name: str) -> str:
    """The block that a layer stands in: the path up to its first number ('layer1.0' of 'layer1.0.downsample.1')."""
    parts = name.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else name


def clamp(masked: list[Masked], upper: float) -> None:
    """Project the masks into [floor, upper]; the optimizer's momentum is left as it is."""
    with torch.no_grad():
        for _, _, mask, floor in masked:
            mask.values.clamp_(floor, upper)


def recalibrate(model: nn.Module, clean: Samples, task: Task, size: int) -> None:
    """Estimate every BatchNorm's running statistics afresh, as the mean over equal parts of the clean samples."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        order = torch.arange(len(clean))
        for part in order.tensor_split(math.ceil(len(clean) / size)):  # parts of one size, since each counts as much
            task.loss(model, task.collate(clean.take(part)).to(device()))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def masks_table(masked: list[Masked]) -> pa.Table:
    """One line a channel: layer, its number from 1, floor, channel, mask."""
    lines = [
        {"layer": m.name, "number": number, "floor": m.floor, "channel": channel, "mask": value}
        for number, m in enumerate(masked, start=1)
        for channel, value in enumerate(m.mask.values.tolist())
    ]
    return pa.Table.from_pylist(lines)
