"""What models are trained and tested on: the default corpus and small synthetic tasks."""

from ntlib.tasks.batch import IGNORED, Batch, accuracy
from ntlib.tasks.corpus import Corpus, NextToken, load_corpus
from ntlib.tasks.synthetic import AssociativeRecall, Copying, InductionHeads

__all__ = [
    "IGNORED",
    "AssociativeRecall",
    "Batch",
    "Copying",
    "Corpus",
    "InductionHeads",
    "NextToken",
    "accuracy",
    "load_corpus",
]
