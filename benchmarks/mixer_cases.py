"""Whole mixers at width 256, projections included: ours, and others' with the same sizes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import peers
from benchmarks.contenders import Contender, ours
from benchmarks.limits import Work
from benchmarks.operator_cases import OPERATORS, WIDTH
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.retention import RetentionConfig

FIXED = OPERATORS["linear attention, fixed decay per head"]


@dataclass(frozen=True)
class Mixer:
    """One of ours, what it is compared with, and the least work of its operator: of a forward pass
    over so many tokens, and of a training step. Projections are counted from the parameters."""

    ours: Callable[[], Contender]
    work: Callable[[int], Work]
    training_work: Callable[[int], Work]
    peers: dict[str, Callable[[], Contender]] = field(default_factory=dict)


def attention() -> Contender:
    """Softmax attention in 4 heads, torch's fused kernel."""
    return ours(AttentionConfig(4))


def mixers(s4: Path | None = None, mega: Path | None = None) -> dict[str, Mixer]:
    """Name -> mixer; S4D and the moving average have peers where checkouts of their repositories
    are given."""
    return {
        "RetNet": Mixer(
            partial(ours, RetentionConfig(4, value_dim=WIDTH)),
            FIXED.work,
            FIXED.training_work,
            {
                f"torchscale, chunks of {chunk}": partial(peers.torchscale_retnet, chunk)
                for chunk in (64, 128)
            },
        ),
    }
