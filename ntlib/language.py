"""Language modelling and recall in small: the runs that chapters train live and that are recorded.

Two-layer models with equal parameters (ntlib.models.presets.small), at a profile's size.
"""

from dataclasses import replace

from ntlib.experiments import Run
from ntlib.models import presets
from ntlib.profiles import load_profile
from ntlib.tasks.synthetic import AssociativeRecall
from ntlib.tasks.text import Text
from ntlib.training import TrainConfig

# Five points per architecture, the same for all: too narrow a sweep has misjudged recurrent models
# (2508.19029).
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)

# hidden width of SwiGLU at which the Transformer's skeleton has its 131,136 parameters, within 0.3%
MIXER_FFN_DIM = {"RWKV-4": 168, "RWKV-7": 134}


def text_run(
    architecture: str, lr: float, profile_name: str = "book", steps: int | None = None
) -> Run:
    """Language modelling of the default corpus at a profile's size, or for `steps` steps."""
    profile = load_profile(profile_name)
    steps = steps or profile.text_steps
    train = TrainConfig(steps, profile.text_batch, lr, eval_every=max(steps // 20, 1))
    task = Text(profile.text_length)
    return Run(architecture, presets.small(architecture, task.vocab_size), task, train)


def short_text_run(architecture: str, lr: float, profile_name: str = "book") -> Run:
    """`text_run` with fewer steps, those of RWKV's versions: Mega and its ablations."""
    return text_run(architecture, lr, profile_name, load_profile(profile_name).version_steps)


def mixer_run(architecture: str, lr: float, profile_name: str = "book") -> Run:
    """`text_run` of RWKV's time mix alone, in the Transformer's skeleton at its parameters."""
    run, transformer = (text_run(name, lr, profile_name) for name in (architecture, "Transformer"))
    model = replace(transformer.model, mixer=run.model.mixer, ffn_dim=MIXER_FFN_DIM[architecture])
    return replace(run, architecture=f"{architecture} (mixer)", model=model)


def recall_run(architecture: str, lr: float, profile_name: str = "book") -> Run:
    """Associative recall of four pairs in 32 tokens at a profile's size."""
    profile = load_profile(profile_name)
    train = TrainConfig(
        profile.recall_steps,
        profile.recall_batch,
        lr,
        eval_every=max(profile.recall_steps // 20, 1),
        held_out=256,
    )
    task = AssociativeRecall(vocab_size=64, length=32, pairs=4, random_filler=False)
    return Run(architecture, presets.small(architecture, task.vocab_size), task, train)


READING_STEPS = 100  # of a comparison of many variants


def reading_run(reading: str, lr: float, profile_name: str = "book") -> Run:
    """A short `text_run` of Yan under one of presets.YAN_READINGS."""
    run = text_run("Yan", lr, profile_name, READING_STEPS)
    task = run.task
    model = presets.small_yan(reading, task.vocab_size, task.length)
    return replace(run, architecture=reading, model=model)
