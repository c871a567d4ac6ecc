"""What the attacks share whose trigger works on samples of one class alone."""

from typing import Self

from pydantic import model_validator
from torch import Tensor

from bdray.attacks import ToClass
from bdray.samples import Samples, Splits
from bdray.spec import Amount, BadInput


class FromSource(ToClass):
    """Only samples of the source class are poisoned, and only they count towards the attack success rate."""

    source: Amount = 1
    """The class whose samples the trigger turns into the target."""

    @model_validator(mode="after")
    def _source_is_not_the_target(self) -> Self:
        if self.source == self.target:
            raise BadInput(
                f"{self.name}.source: got {self.source}, which is the target, too; set one of the two to another class"
            )
        return self

    def check(self, splits: Splits) -> None:
        last = int(splits.train.targets.max())
        if self.source > last:
            raise BadInput(f"{self.name}.source: got {self.source}, expected a class from 0 to {last}")
        super().check(splits)

    def poisonable(self, samples: Samples) -> Tensor:
        found: Tensor = samples.targets == self.source
        return found

    def origin(self) -> str:
        return f"of the source class {self.source}"

    def attackable(self, samples: Samples) -> Tensor:
        found: Tensor = samples.targets == self.source
        return found
