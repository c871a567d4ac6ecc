"""UCF101 (Soomro, Zamir and Shah 2012, arXiv 1212.0402): 13,320 clips of 101 human actions, three official splits."""

from pathlib import Path
from typing import ClassVar, Literal

from bdray.data import Published
from bdray.data._videos import Videos, ucf


class Ucf101(Videos):
    """The archives UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip as unpacked, below the data folder or in a folder
    ucf101 of it. Clips of one group show one scene, which no official split divides; `held` takes whole groups, too. Videos are
    decoded whenever a process reads them, which takes minutes for all of them: `limit` and `test_limit` do not shorten that."""

    home: ClassVar[str] = "https://www.crcv.ucf.edu/data/UCF101.php"
    layout: ClassVar[str] = "UCF-101/<Class>/v_<Class>_gNN_cNN.avi and ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt"
    unit: ClassVar[str] = "a group"

    split: Literal[1, 2, 3] = 1
    """Which of the official splits."""

    def read(self, root: Path) -> Published:
        places = (root, root / "ucf101")
        return ucf(self, next((place for place in places if (place / "UCF-101").is_dir()), root), self.split)
