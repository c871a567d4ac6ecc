"""The demo beyond images: one NFT cell of every other task, with the data, the model and the attack that the task says itself.
bdray sweep sweeps/demo_modalities.py"""

from bdray.launch import Sweep

sweep = Sweep(space={"task": ["detection", "translation", "points", "text", "video"], "defense": "nft"})
