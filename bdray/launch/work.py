"""What a worker is told beside its experiment, and how it settles in."""

import os
from dataclasses import dataclass
from pathlib import Path

from bdray.store import Store


@dataclass(frozen=True)
class Work:
    """The same for every worker of one launch."""

    sweep: str
    store: str
    root: str
    """The data folder."""
    folder: str
    """Where relative paths in an experiment start: the folder of the person who typed the command."""
    records: str
    """Where Ray keeps its own files of this launch."""
    cpus: float
    gpus: float
    """Of one trial; 0 where the cluster has no GPU."""

    def settle(self) -> tuple[Store, Path]:
        """Called in a worker: torch takes the threads that Ray gave it, never more; the store and the data folder."""
        import torch

        torch.set_num_threads(max(1, int(self.cpus)))
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        return Store(self.store), Path(self.root)
