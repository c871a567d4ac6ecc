"""Experiment: the dict that a person types, a sweep draws, a worker gets and a row holds, and whether its parts go together."""

from bdray.attacks import Attack
from bdray.defenses import Defense
from bdray.spec import Config, Incompatible, Seed, Spec, key_of, member
from bdray.task import Task
from bdray.training import Training


class Experiment(Spec):
    """One victim and one defense. With every default it is the embedded one: digits, blend, NFT."""

    task: Task = member("image")
    attack: Attack = member("blend")
    training: Training = Training()
    defense: Defense = member("nft")
    seed: Seed = 0
    """Of the victim: poison, initial weights, order of the samples, trigger. The defense adds its own."""

    @classmethod
    def _filled(cls, fields: Config) -> Config:
        """What suits the task stands where the experiment says nothing: of a part that it does not name, and of fields that it
        does not name of the member that suits the task."""
        task = fields.get("task", {})
        name = task.name if isinstance(task, Task) else task.get("name", "image") if isinstance(task, dict) else task
        if name not in Task.names():
            return fields
        fields = dict(fields)
        for part, suited in Task.member(name).suited.items():
            mine = fields.get(part, {})
            mine = {"name": mine} if isinstance(mine, str) else mine
            if isinstance(mine, dict) and "preset" not in mine and mine.get("name") in (None, suited.get("name")):
                fields[part] = {**suited, **mine}
        return fields

    def victim_config(self) -> Config:
        """The part that the victim depends on: everything but the defense."""
        return {k: v for k, v in self.config().items() if k != "defense"}

    def victim_key(self) -> str:
        """The hash under which the victim is stored: one victim serves every defense."""
        return key_of({k: v for k, v in self.identity().items() if k != "defense"})

    def check(self) -> None:
        """Raise Incompatible where the parts make no sense together."""
        modality = self.task.modality
        for spec, fits in (
            (self.task.data, {self.task.data.modality}),
            (self.task.model, {self.task.model.modality}),
            (self.attack, self.attack.modalities),
            (self.defense, self.defense.modalities or {modality}),
        ):
            if modality not in fits:
                why = f" ({spec.because})" if isinstance(spec, Defense) and spec.because else ""
                raise Incompatible(
                    f"the {spec.kind} {spec.name!r} is for {' and '.join(sorted(fits))}{why}, the task {self.task.name!r} is "
                    f"for {modality}; choose another"
                )
        spaces = self.defense.spaces
        if spaces and self.task.space not in spaces:
            raise Incompatible(
                f"the defense {self.defense.name!r} is for inputs that move as {', '.join(sorted(spaces))} "
                f"({self.defense.because}), the task {self.task.name!r} names no such space; choose another"
            )
        if self.attack.steers and "train" in self.defense.needs:
            raise Incompatible(
                f"the defense {self.defense.name!r} needs a fixed training set, and the attack {self.attack.name!r} "
                "steers the training instead; choose another"
            )
