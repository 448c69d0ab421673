"""Mega's relative position biases: b_ij = b(j - i) is added to the score of query i and key j.

| here        | Mega (2209.10655)                    | the official code                      |
| ----------- | ------------------------------------ | -------------------------------------- |
| SimpleBias  | b_rel, a learned number per distance | SimpleRelativePositionalBias           |
| RotaryBias  | b_rel, called RoPE                   | RotaryRelativePositionalBias           |
| alpha, beta | (not in the paper)                   | alpha, beta, turned by their positions |

The paper names RoFormer's rotation for its language models. What the code adds is a scalar b_ij =
<R_i alpha, R_j beta> of two learned vectors, the same for all inputs: queries and keys are not
rotated. R is orthogonal, so that b depends on j - i only, and with alpha, beta read as complex
numbers (their first halves are the real parts)

    b(j - i) = Re sum_k conj(alpha_k) beta_k e^(i (j - i) theta_k), theta_k = 10000^(-k / pairs) (1)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntlib.ops.rotary import rotary_frequencies

INIT_STD = 0.02  # of everything learned here, as published


class RelativeBias(nn.Module):
    """A bias that depends on the distance from query to key alone."""

    def of_lags(self, first: int, last: int) -> Float[Tensor, " lags"]:
        """b(first) ... b(last); a negative lag is a key in the past."""
        raise NotImplementedError

    def forward(self, n_queries: int, n_keys: int) -> Float[Tensor, "n_queries n_keys"]:
        """The biases of queries that stand at the last n_queries of n_keys positions."""
        lags = self.of_lags(1 - n_keys, n_queries - 1)
        return lags.unfold(0, n_keys, 1).flip(0)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """N(0, 0.02^2)."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=INIT_STD, generator=generator)


class SimpleBias(RelativeBias):
    """A learned number for each distance up to max_positions - 1, in both directions."""

    def __init__(self, max_positions: int):
        super().__init__()
        self.max_positions = max_positions
        self.rel_pos_bias = nn.Parameter(torch.empty(2 * max_positions - 1))

    def of_lags(self, first: int, last: int) -> Tensor:
        centre = self.max_positions - 1
        if -first > centre:
            raise ValueError(
                f"length must be at most max_positions = {self.max_positions} for a simple "
                f"position bias, got {1 - first}; a rotary bias or chunks have no such bound"
            )
        return self.rel_pos_bias[centre + first : centre + last + 1]


class RotaryBias(RelativeBias):
    """Eq. (1); of any length. Raises ValueError for an odd dim."""

    def __init__(self, dim: int):
        super().__init__()
        rotary_frequencies(dim)  # refuses an odd dim right here
        self.alpha = nn.Parameter(torch.empty(1, dim))
        self.beta = nn.Parameter(torch.empty(1, dim))

    def of_lags(self, first: int, last: int) -> Tensor:
        frequencies = rotary_frequencies(self.alpha.shape[1], device=self.alpha.device)
        lags = torch.arange(first, last + 1, device=self.alpha.device)
        angles = lags[:, None] * frequencies  # in float64, see ntlib.ops.rotary
        (a_re, a_im), (b_re, b_im) = self.alpha[0].chunk(2), self.beta[0].chunk(2)
        real, imaginary = a_re * b_re + a_im * b_im, a_re * b_im - a_im * b_re
        dtype = self.alpha.dtype
        return angles.cos().to(dtype) @ real - angles.sin().to(dtype) @ imaginary
