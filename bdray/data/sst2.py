"""SST-2, the Stanford Sentiment Treebank in two classes (Socher et al. 2013): 6,920 + 872 + 1,821 sentences on films."""

from pathlib import Path
from typing import ClassVar, Literal

from bdray.data import Published
from bdray.data._texts import Texts
from bdray.spec import FilePath, at_home

CLASSES = ("negative", "positive")


class Sst2(Texts):
    """Whole sentences, as OpenBackdoor and HiddenKiller distribute them; GLUE's archive has phrases of them, too, and labels no
    test sentence (take `test=dev`). The file that is not tested on is not used: what a defender holds is a part of the
    training set, as in every data set here."""

    home: ClassVar[str] = "https://github.com/thunlp/HiddenKiller or https://gluebenchmark.com"
    layout: ClassVar[str] = "train.tsv and test.tsv (or dev.tsv) with a first line sentence<TAB>label, in that folder"

    path: FilePath = "SST-2"
    """The folder that holds the files, below the data folder or `SentimentAnalysis` in it; or absolute."""
    test: Literal["test", "dev"] = "test"
    """Which file is tested on."""

    def read(self, root: Path) -> Published:
        folder = at_home(self.path)
        places = [root / folder, root / "SentimentAnalysis" / folder]
        home = next((place for place in places if place.is_dir()), None)
        if home is None:
            self.missing(places[0])
        return Published(self.table(home / "train.tsv", CLASSES), self.table(home / f"{self.test}.tsv", CLASSES), CLASSES)
