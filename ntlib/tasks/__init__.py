"""What models are trained and tested on: the default corpus and small synthetic tasks."""

from ntlib.tasks.batch import IGNORED, Batch, accuracy
from ntlib.tasks.corpus import Corpus, load_corpus
from ntlib.tasks.digits import Digits
from ntlib.tasks.gap_copying import GapCopying
from ntlib.tasks.list_operations import ListOps
from ntlib.tasks.pathfinder import Pathfinder
from ntlib.tasks.state_tracking import Composition, Counting
from ntlib.tasks.synthetic import AssociativeRecall, Copying, InductionHeads
from ntlib.tasks.text import Text
from ntlib.tasks.tones import Tones

__all__ = [
    "IGNORED",
    "AssociativeRecall",
    "Batch",
    "Composition",
    "Copying",
    "Corpus",
    "Counting",
    "Digits",
    "GapCopying",
    "InductionHeads",
    "ListOps",
    "Pathfinder",
    "Text",
    "Tones",
    "accuracy",
    "load_corpus",
]
