"""An undisturbed run of a sweep's cells, one after the other, without Ray: python -m tests.chaos.reference FILE STORE"""

import sys
from pathlib import Path

import torch

from bdray.launch.expand import expand, read_sweep
from bdray.run import run
from bdray.store.store import Store

if __name__ == "__main__":
    torch.set_num_threads(1)
    file, place = sys.argv[1:]
    store, sweep = Store(place), read_sweep(file)
    for cell in expand(sweep):
        run(cell.experiment, store, Path("data"), sweep.name)
    store.compact(sweep.name)
