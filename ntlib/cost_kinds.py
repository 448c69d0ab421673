"""How the cost of a mixer grows with length: the kinds that ntlib.mixer_costs chooses among.

Operations are counted as torch.utils.flop_counter does: two per multiply-add of a matrix product.
Attention, linear attention and retention mix tokens by matrix products, too, and are counted to the
last one. The other operators are not made of matrix products; `StateCost` counts the arithmetic of
their recurrence, an exponential as one operation, whatever form computes it.
"""

from dataclasses import dataclass
from typing import Protocol


class MixerCost(Protocol):
    """Costs of one mixer layer, for one sequence."""

    parameters: int

    def state_numbers(self, context: int) -> int:
        """Numbers kept after `context` tokens."""
        ...

    def prefill_flops(self, length: int) -> int:
        """Matrix products of a whole sequence."""
        ...

    def step_flops(self, context: int) -> int:
        """Arithmetic of one decoding step that follows `context` tokens."""
        ...

    def step_state_traffic(self, context: int) -> int:
        """Numbers of state that one decoding step reads and writes."""
        ...


@dataclass(frozen=True)
class AttentionCost:
    """Softmax attention: quadratic to read, a cache that grows; with a window linear, and a cache
    as long as that."""

    d_model: int
    d_kv: int  # n_kv_heads x head_dim
    window: int | None = None

    @property
    def parameters(self):
        return 2 * self.d_model * (self.d_model + self.d_kv)

    def state_numbers(self, context):
        return 2 * self.d_kv * self._kept(context)

    def prefill_flops(self, length):
        scores = length**2
        if self.window and length > 2 * self.window:  # else a mask over the square
            scores = 2 * self.window * -(-length // self.window) * self.window
        return 2 * length * self.parameters + 4 * scores * self.d_model

    def step_flops(self, context):
        return 2 * self.parameters + 4 * self._kept(context + 1) * self.d_model

    def step_state_traffic(self, context):
        return self.state_numbers(context + 1)  # reads what was there, writes one token

    def _kept(self, context):
        return min(context, self.window or context)


@dataclass(frozen=True)
class StridedAttentionCost(AttentionCost):
    """Strided attention: of half of the heads as through a window, of the others by residue; all
    keys and values are kept, since each of them is some later token's."""

    stride: int = 1

    def prefill_flops(self, length):
        rows = -(-length // self.stride)
        local = self.stride * 2 * rows * self.stride if length > 2 * self.stride else length**2
        scores = local + self.stride * rows**2  # each by half of the heads
        return 2 * length * self.parameters + 2 * scores * self.d_model

    def step_flops(self, context):
        return 2 * self.parameters + 2 * self._seen(context) * self.d_model

    def step_state_traffic(self, context):
        return self._seen(context) * self.d_kv  # keys and values of half of the heads each

    def _seen(self, context):
        """Keys of a local head and of a strided one, the present token's included."""
        return min(context + 1, self.stride) + context // self.stride + 1


@dataclass(frozen=True)
class MatrixStateCost:
    """Linear attention and retention: n_heads states of d_k x d_v, whatever the length."""

    projections: int  # numbers in the weight matrices
    vectors: int  # numbers in weights that are no matrices (norms)
    n_heads: int
    d_k: int  # per head
    d_v: int  # per head, with the column of a normaliser if there is one
    chunk_size: int

    @property
    def parameters(self):
        return self.projections + self.vectors

    def state_numbers(self, context):
        return self.n_heads * self.d_k * self.d_v

    def prefill_flops(self, length):
        chunk = min(self.chunk_size, length)
        whole, rest = length - length % chunk, length % chunk
        scores = whole * chunk + rest**2  # pairs of positions in the same chunk
        mixing = 2 * scores * (self.d_k + self.d_v) + 4 * length * self.d_k * self.d_v
        return 2 * length * self.projections + self.n_heads * mixing

    def step_flops(self, context):
        return 2 * self.projections + 5 * self.state_numbers(
            context
        )  # decay, rank-one update, read

    def step_state_traffic(self, context):
        return 2 * self.state_numbers(context)  # all of it is read and written


@dataclass(frozen=True)
class StateCost:
    """A recurrence with a state of constant size, whatever it is."""

    projections: int  # numbers in the matrices that every token is multiplied with
    vectors: int  # numbers in all other weights
    state: int  # numbers of state; a complex one is two
    recurrence: int  # operations of the recurrence per token, its output included

    @property
    def parameters(self):
        return self.projections + self.vectors

    def state_numbers(self, context):
        return self.state

    def prefill_flops(self, length):
        return length * self.step_flops(0)

    def step_flops(self, context):
        return 2 * self.projections + self.recurrence

    def step_state_traffic(self, context):
        return 2 * self.state  # all of it is read and written


@dataclass(frozen=True)
class ChunkedAttentionCost:
    """Attention inside chunks beside a recurrence: Mega and Megalodon."""

    projections: int  # numbers in the matrices that every token is multiplied with
    vectors: int  # numbers in all other weights
    d_k: int  # of all heads together
    d_v: int
    chunk_size: int | None  # None: one chunk without end
    recurrent: StateCost  # of what crosses chunks: its state and its arithmetic
    streams: bool = True  # False: it reads both ways and has no state

    @property
    def parameters(self):
        return self.projections + self.vectors

    def state_numbers(self, context):
        kept = min(context, self.chunk_size or context) if self.streams else 0
        return self.recurrent.state + kept * (self.d_k + self.d_v)

    def prefill_flops(self, length):
        chunk = min(self.chunk_size or length, length)
        whole, rest = length - length % chunk, length % chunk
        scores = whole * chunk + rest**2  # pairs of positions in the same chunk
        mixing = 2 * scores * (self.d_k + self.d_v)
        return length * (2 * self.projections + self.recurrent.recurrence) + mixing

    def step_flops(self, context):
        seen = 2 * self._seen(context) * (self.d_k + self.d_v)
        return 2 * self.projections + self.recurrent.recurrence + seen

    def step_state_traffic(self, context):
        cache = self._seen(context) * (self.d_k + self.d_v) if self.streams else 0
        return self.recurrent.step_state_traffic(context) + cache

    def _seen(self, context):
        """Keys that the next token sees, its own included."""
        return (context % self.chunk_size if self.chunk_size else context) + 1
