"""The norms that Mega chooses among, named as officially (fairseq/modules/sequence_norm.py)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("layernorm", "scalenorm", "rmsnorm", "batchnorm")
EPS = 1e-5


def sequence_norm_parameters(kind: str, d_model: int) -> int:
    """Numbers that a norm learns."""
    return {"scalenorm": 1, "rmsnorm": d_model}.get(kind, 2 * d_model)


class ScaleNorm(nn.Module):
    """x / rms(x) times one learned number (1910.05895 divides by the norm instead of the rms)."""

    def __init__(self):
        super().__init__()
        self.scalar = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scalar * F.rms_norm(x, x.shape[-1:], eps=EPS)

    def reset_parameters(self):
        """The number is 1."""
        nn.init.ones_(self.scalar)


class SequenceNorm(nn.Module):
    """(..., d_model) to the same.

    "batchnorm" takes its statistics from the whole batch while it trains, later tokens included;
    in eval() it is causal. Raises ValueError for an unknown kind.
    """

    def __init__(self, kind: str, d_model: int):
        super().__init__()
        if kind not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {kind!r}")
        if kind == "layernorm":
            self.norm = nn.LayerNorm(d_model, eps=EPS)
        elif kind == "scalenorm":
            self.norm = ScaleNorm()
        elif kind == "rmsnorm":
            self.norm = nn.RMSNorm(d_model, eps=EPS)
        else:
            self.norm = nn.BatchNorm1d(d_model, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, nn.BatchNorm1d):
            return self.norm(x.flatten(0, -2)).view_as(x)
        return self.norm(x)

    def reset_parameters(self) -> None:
        """Weights 1, biases 0."""
        self.norm.reset_parameters()
