"""AdvrBD (arXiv 2405.12719): a clean model from a poisoned training set, without clean data. Samples whose prediction an
adversarial perturbation moves most are taken for clean and unlearnt; what the model, now little but its backdoor, gets wrong
is clean; a fresh model is trained on it.

The paper's numbers (radius, bound, steps, rates, epochs) are not published in what is left of its text: the defaults here are
ours. So are the patch's shape, the optimizer of the perturbation, the divergence's order and the cap on unlearning, and these
choices, of which the text says nothing or something else:

- The first partition comes after a warm-up on the whole training set: a model that has learnt nothing ranks noise.
- There are two iterations. The text describes many, over which ever more is taken for clean; ten of 0.05 take half.
- Weight decay, the victim's, pulls all weights in the steps of unlearning, too, as does its momentum.
- What is no image is perturbed, as an image is, where the model's input is continuous (`Task.soften`), inside the like of a
  patch: `radius` and `eps` say which and how far. The paper has images alone.
- Half of every batch of unlearning is taken for clean, however little that is: up to `batch` samples, drawn from all taken
  so far. In equation 4 as we read it, the mean of what is learnt and the mean of what is unlearnt weigh the same.
"""

import math
import time
from typing import Annotated, ClassVar, Literal, Self

import pyarrow as pa
import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from bdray.defenses import Defended, Defense, Evidence, Show
from bdray.defenses._isolation import losses, two_groups
from bdray.defenses._partition import Perturbation, divergences
from bdray.defenses._stages import Stages
from bdray.layers.finite import check_finite
from bdray.samples import Outline, Rows, Samples, Splits
from bdray.spec import BadInput, BatchSize, Config, Count, GaveUp, Later, NonNegative, Positive, Share
from bdray.task import Task
from bdray.training import Report, Training, device, parts


class AdvrBD(Defense):
    """Works on whatever has classes, and where the poisoned set is fixed."""

    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    spaces: ClassVar[frozenset[str]] = frozenset({"pixels", "points", "words"})
    because: ClassVar[str] = (
        "it measures how far the probabilities of the classes move, and boxes and sentences have no one distribution to compare"
    )
    flags: ClassVar[bool] = True
    presets: ClassVar[dict[str, Config]] = {"remedy": {"balanced": True, "relearn_rate": 0.1}}

    warmup: Count = 10
    """Epochs on the whole training set before the first partition, otherwise by the victim's recipe; see `augment`."""
    partition_rate: Positive = 0.05
    """Samples newly taken for clean in an iteration / training samples."""
    iterations: Count = 2
    radius: Share = 0.125
    """Of the patch, a square of 2 radius + 1 pixels / the image's shorter side. Of a clip it is such a square in 2 radius + 1
    frames, the radius in time the same share of the frames; of a cloud the points in a ball around one of them, whose radius
    is that share of the cloud's longest side; of a text a span of 2 radius + 1 words, that share of its words. These are
    ours."""
    eps: NonNegative = 16.0
    """Bound of the perturbation, of 255, which are the range of a pixel. What is no pixel has no range that is known: of a
    cloud 255 are its largest less its smallest coordinate, of a text the largest less the smallest number in the embeddings
    of its words, each sample's own. This is ours."""
    steps: Count = 1
    """Of projected gradient ascent, 2.5 eps / steps each."""
    climb: Literal["kl", "ce"] = "kl"
    """What the perturbation climbs: the divergence, or the cross-entropy to the model's own prediction."""
    masks: Count = 1
    """Patches tried on each sample, whose divergences are averaged; the paper's one."""
    epochs: Count = 1
    """Of unlearning and learning in an iteration, counted over what is not taken for clean, learnt or not."""
    lr: Positive = 0.01
    """Of unlearning and learning."""
    batch: BatchSize = 128
    """Samples a step of each kind: to learn, and to unlearn."""
    augment: bool = True
    """Whether the samples are augmented in warm-up and unlearning, as the victim's recipe has it. Without, a small net learns a
    small trigger in fewer epochs, and a large one remembers every sample, so that unlearning some takes none of the others with
    it (docs/results/advrbd_full.md)."""
    unlearn_by: Annotated[Literal["ascent", "wrong_labels"], Later("ascent")] = "ascent"
    """How what is taken for clean is unlearnt. ascent: the paper's, up its loss, as far as `cap` lets it; wrong_labels: by
    learning the next class for it, as BaDExpert (Xie et al., ICLR 2024) does with its clean samples, which needs no cap."""
    cap: Literal["loss", "flooding", "accuracy"] = "loss"
    """Unlearning is ascent on the cross-entropy. loss: a sample that has reached `level` no longer counts; flooding: the mean
    is drawn to `level` from either side; accuracy: a batch is unlearnt while more than `keep` of it is right."""
    level: Positive = 2.0
    """Of the cap, in units of the logarithm of the number of classes, a blind guess's loss."""
    keep: Share = 0.2
    bn: Literal["joint", "frozen"] = "joint"
    """joint: what is learnt and unlearnt passes through BatchNorm as one batch; frozen: with the warm-up's statistics."""
    balanced: bool = False
    """Our remedy, not the paper's: every label gives its own share, at least one sample, of what is taken for clean. Left to
    itself the partition takes less of the target class, whose clean samples the backdoor helps to hold; samples that were not
    unlearnt are still predicted correctly, and so are flagged, and the clean model may never see that class."""
    relearn_rate: Share = 1.0
    """The other half of our remedy: samples learnt beside the unlearning / training samples, those not taken for clean that
    moved least at the first partition. 1, the paper's, is all of them, most of which are clean: what unlearning takes from the
    model they give back. A small share is far richer in poison wherever the partition ranks at all."""
    isolate: Annotated[Literal["argmax", "loss"], Later("argmax")] = "argmax"
    """What of the training set is taken for poison. argmax: the paper's, all that the enhanced model predicts as labelled:
    poison, and whatever else it has not forgotten; loss: the lower of the two groups into which Otsu's threshold cuts the
    logarithms of the samples' losses under it. How far these groups lie apart is reported as the row's `separation`,
    whichever rule is followed."""
    relabel: bool = False
    """Whether what was taken for poison is labelled by the clean model, which is then fine-tuned on all of it."""
    relabel_epochs: Count = 10
    relabel_lr: Positive = 1e-3

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.partition_rate * self.iterations >= 1:
            raise BadInput(
                f"advrbd.partition_rate: got {self.partition_rate:g} in {self.iterations} iterations, which takes the whole "
                "training set for clean; lower one of the two so that their product is less than 1"
            )
        return self

    def check(self, task: Task, outline: Outline, splits: Splits) -> None:
        super().check(task, outline, splits)
        each, count = sum(self.sizes(splits.train.targets)), len(splits.train)
        if each > count - 2:
            raise BadInput(
                f"advrbd.partition_rate: got {self.partition_rate:g}, which takes {each} of {count} training samples for clean "
                f"at once and leaves too few, expected at most {count - 2}; lower it"
            )
        if each * self.iterations > count - 2:
            raise BadInput(
                f"advrbd.iterations: got {self.iterations}, in each of which {each} of {count} training samples are taken for "
                f"clean, which leaves too few, expected at most {(count - 2) // each}; lower it"
            )

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.train is not None
        assert evidence.training is not None
        assert evidence.outline is not None
        train = evidence.train.to(device())
        recipe, stages = evidence.training.model_copy(update={"workers": 1}), Stages(task, rng, report)
        model = task.build(evidence.outline, rng)
        augment = self.augment and recipe.augment
        warmup = recipe.model_copy(update={"epochs": self.warmup, "augment": augment})
        stages.fit("warmup", model, train, warmup, keep=evidence.keep)
        evidence.show(0, model=model)
        tell = stages.told("enhancement", self.iterations)
        table = self.enhance(model, train, task, recipe, rng, tell, evidence.show)
        lost = losses(model, train, task)
        groups = two_groups(lost)
        flagged = groups.low if self.isolate == "loss" else task.predict(model, train) == train.targets.cpu()
        clean = (~flagged).nonzero().flatten()
        if len(clean) < 2:
            raise GaveUp(
                f"advrbd found {len(clean)} of {len(train)} samples clean, too few to train on: the enhanced model still gets "
                "the others right; raise defense.lr, defense.iterations or defense.level"
            )
        purified = task.build(evidence.outline, rng)
        stages.fit("clean", purified, train.take(clean.to(device())), recipe)
        if self.relabel:
            evidence.show(self.iterations + 1, model=purified)
            own = task.predict(purified, train).to(device())
            relabelled = Samples(train.inputs, torch.where(flagged.to(device()), own, train.targets))
            gentle = {"epochs": self.relabel_epochs, "lr": self.relabel_lr, "schedule": "constant"}
            stages.fit("relabel", purified, relabelled, recipe.model_copy(update=gentle))
        isolation = pa.table({"sample": range(len(train)), "loss": lost.numpy()})
        tables = {"divergences": table, "isolation": isolation}
        return Defended(purified, flagged=flagged, tables=tables, separation=groups.separation)

    def enhance(
        self,
        model: nn.Module,
        train: Samples,
        task: Task,
        training: Training,
        rng: torch.Generator,
        tell: Report,
        show: Show,
    ) -> pa.Table:
        """Algorithm 2, in place: what is left of the model is little but its backdoor. A table of the samples: the divergence
        at the first partition, and the iteration in which each was taken for clean (0: in none)."""
        taken = torch.zeros(len(train), dtype=torch.int64)
        first = torch.empty(0)
        optimizer = training.model_copy(update={"lr": self.lr}).stepper(model.parameters())
        for iteration in range(1, self.iterations + 1):
            started = time.perf_counter()
            rest = (taken == 0).nonzero().flatten()
            draw = torch.Generator(device()).manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
            with training.forward():
                moved = divergences(model, train.take(rest.to(device())), task, self.perturbation(train), draw, self.masks)
            first = moved if iteration == 1 else first
            taken[self.choose(moved, rest, train.targets.cpu())] = iteration
            partitioned = time.perf_counter()
            loss = self.unlearn(model, train, self.relearnt(first, taken), taken > 0, task, training, optimizer, rng)
            seconds = {"partition_seconds": partitioned - started, "unlearning_seconds": time.perf_counter() - partitioned}
            tell(iteration, loss=loss, divergence=float(moved.median()), **seconds)
            show(iteration, model=model, clean=taken > 0)
        return pa.table({"sample": range(len(train)), "divergence": first.numpy(), "taken": taken.numpy()})

    def sizes(self, labels: Tensor) -> list[int]:
        """How many are taken for clean in an iteration: of all, or with `balanced` of each label."""
        counts = labels.bincount().tolist() if self.balanced else [len(labels)]
        return [max(1, round(self.partition_rate * count)) for count in counts]

    def choose(self, moved: Tensor, rest: Tensor, labels: Tensor) -> Tensor:
        """Positions of the samples that are taken for clean next: of those not taken before (`rest`, positions) the ones that
        moved most; the share is of all samples, or with `balanced` of all that bear a label."""
        order, sizes = rest[moved.argsort(descending=True, stable=True)], self.sizes(labels)
        if not self.balanced:
            return order[: sizes[0]]
        return torch.cat([order[labels[order] == label][:size] for label, size in enumerate(sizes)])

    def relearnt(self, first: Tensor, taken: Tensor) -> Tensor:
        """Which samples are learnt, bool [N]: of those not taken for clean the share that moved least at the first partition,
        at least two; of equal ones the first."""
        learnt = taken == 0
        count = max(2, round(self.relearn_rate * len(taken)))
        order = torch.where(learnt, first, math.inf).argsort(stable=True)
        learnt[order[count:]] = False
        return learnt

    def unlearn(
        self,
        model: nn.Module,
        train: Samples,
        dirty: Tensor,
        clean: Tensor,
        task: Task,
        training: Training,
        optimizer: torch.optim.Optimizer,
        draw: torch.Generator,
    ) -> float:
        """Equation 4: descent on what may be poisoned, over and over, and in the same steps ascent on what is taken for clean
        (both bool [N]). The mean loss of the former."""
        learnt, unlearnt = dirty.nonzero().flatten(), clean.nonzero().flatten()
        if self.bn == "joint":
            model.train()
        else:
            model.eval()
        total, count = torch.zeros((), device=device()), 0
        steps = self.epochs * len(parts((~clean).nonzero().flatten(), self.batch))
        waiting: list[Tensor] = []
        for _ in range(steps):
            waiting = waiting or parts(learnt[torch.randperm(len(learnt), generator=draw)], self.batch)
            part = waiting.pop(0)
            mine = unlearnt[torch.randperm(len(unlearnt), generator=draw)[: self.batch]]
            both = train.take(torch.cat([part, mine]).to(device())).dense()
            batch = task.collate(task.augment(both, draw) if self.augment and training.augment else both)
            with training.forward():
                outputs = model(batch.inputs).float()
            descent = F.cross_entropy(outputs[: len(part)], batch.targets[: len(part)])
            loss = descent - self.ascent(outputs[len(part) :], batch.targets[len(part) :])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + descent.detach() * len(part), count + len(part)
        check_finite(model, "unlearning", f"lower defense.lr ({self.lr:g}) or defense.level ({self.level:g})")
        return float(total) / count

    def ascent(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What unlearning climbs, of a batch's logits [B, C] and labels [B]."""
        if self.unlearn_by == "wrong_labels":
            return -F.cross_entropy(outputs, (targets + 1) % outputs.shape[1])
        losses = F.cross_entropy(outputs, targets, reduction="none")
        level = self.level * math.log(outputs.shape[1])
        if self.cap == "loss":
            return losses.clamp(max=level).mean()
        if self.cap == "flooding":
            return -(losses.mean() - level).abs()
        right = (outputs.argmax(1) == targets).float().mean()
        return losses.mean() * (right > self.keep)

    def perturbation(self, train: Samples) -> Perturbation:
        """The fields in pixels, where there are some, and in units of 0..1."""
        radius = round(self.radius * min(train.inputs.shape[-2:])) if not isinstance(train.inputs, Rows) else 0
        return Perturbation(radius, self.eps / 255, self.steps, 2.5 * self.eps / 255 / self.steps, self.climb, self.radius)
