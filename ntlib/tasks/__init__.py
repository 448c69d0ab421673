"""What models are trained and tested on: the default corpus and small synthetic tasks."""

from ntlib.tasks.batch import IGNORED, Batch, accuracy
from ntlib.tasks.corpus import Corpus, load_corpus
from ntlib.tasks.state_tracking import Composition, Counting
from ntlib.tasks.synthetic import AssociativeRecall, Copying, InductionHeads
from ntlib.tasks.text import Text

__all__ = [
    "IGNORED",
    "AssociativeRecall",
    "Batch",
    "Composition",
    "Copying",
    "Corpus",
    "Counting",
    "InductionHeads",
    "Text",
    "accuracy",
    "load_corpus",
]
