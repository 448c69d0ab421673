"""What models are trained and tested on: the default corpus and small synthetic tasks."""

from ntlib.tasks.batch import IGNORED, Batch, accuracy
from ntlib.tasks.corpus import Corpus, load_corpus
from ntlib.tasks.digits import Digits
from ntlib.tasks.gap_copying import GapCopying
from ntlib.tasks.graded_recall import GradedRecall
from ntlib.tasks.list_operations import ListOps
from ntlib.tasks.lookup import NGramLookup
from ntlib.tasks.motif_recall import MotifRecall
from ntlib.tasks.needle import Needle
from ntlib.tasks.pathfinder import Pathfinder
from ntlib.tasks.phonebook import PhoneBook
from ntlib.tasks.state_tracking import Composition, Counting
from ntlib.tasks.synthetic import AssociativeRecall, Copying, InductionHeads
from ntlib.tasks.text import DrilledText, Text
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
    "DrilledText",
    "GapCopying",
    "GradedRecall",
    "InductionHeads",
    "ListOps",
    "MotifRecall",
    "NGramLookup",
    "Needle",
    "Pathfinder",
    "PhoneBook",
    "Text",
    "Tones",
    "accuracy",
    "load_corpus",
]
