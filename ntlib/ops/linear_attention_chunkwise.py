"""The parallel and the chunkwise form of linear attention, made of matrix products.

With w the decays and every output reading the state before its token,

    read_t = w_t q_t, or q_t with a bonus u;  own_t = q_t . k_t, or q_t . (u * k_t)
    o_t = S^T (w_0 ... w_{t-1} read_t) + own_t v_t
          + sum_{s<t} (read_t . w_{s+1} ... w_{t-1} k_s) v_s

where S is the state before the chunk and t counts from the chunk's start: RetNet's Eq. 7, SSD's
Sec. 6 and GLA's Sec. 4 with the bonus of RWKV. Products of decays are exponentials of sums of
logarithms, each summed over just the tokens it spans. A difference of two longer sums would be
shorter to write, and wrong after strong decays: float32 knows -3000.0001 - (-3000) to no digit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Inside so many tokens, decays per channel need a number for each pair and channel; between blocks
# of so many, they factor at the block's start into two matrices, both of numbers <= 1.
SUB_CHUNK = 8


def chunkwise(q, k, v, log_decay, bonus, state, chunk_size):
    """Parallel inside chunks, recurrent between them: O(length (chunk + d_k) d_v) work."""
    length = q.shape[2]
    log_decay = _expanded(log_decay)
    own = (q * (k if bonus is None else bonus[:, None] * k)).sum(-1)
    read = q if bonus is not None else q * log_decay.exp()
    chunk_size = min(chunk_size, length)
    whole = length - length % chunk_size
    outputs = []
    for start, end, size in ((0, whole, chunk_size), (whole, length, length - whole)):
        if start < end:
            # (batch, heads, chunks, chunk_size, ...); what all chunks share has one chunk
            parts = [x[:, :, start:end].unflatten(2, (-1, size)) for x in (read, k, v, own)]
            fixed = log_decay.shape[2] == 1
            decays = (
                log_decay[:, :, None].expand(-1, -1, -1, size, -1)
                if fixed
                else log_decay[:, :, start:end].unflatten(2, (-1, size))
            )
            out, state = _chunks(*parts, decays, state)
            outputs.append(out)
    return torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0], state


def _expanded(log_decay: Tensor) -> Tensor:
    """Four dimensions that broadcast to (batch, heads, length, d_k)."""
    match log_decay.dim():
        case 1:
            return log_decay[None, :, None, None]
        case 2:
            return log_decay[None, :, None]
        case 3:
            return log_decay[..., None]
    return log_decay


def _chunks(read, k, v, own, log_decay, state):
    before = F.pad(log_decay, (0, 0, 1, 0))[..., :-1, :].cumsum(-2)  # all tokens earlier than t
    # all tokens later than s: summed from the end, not a difference
    after = F.pad(log_decay, (0, 0, 0, 1))[..., 1:, :].flip(-2).cumsum(-2).flip(-2)
    # what a chunk adds to the state, and what it leaves of it
    added = (k * after.exp()).transpose(-1, -2) @ v
    kept = log_decay.sum(-2).exp()[..., None].expand(-1, -1, v.shape[2], -1, -1)
    states = []  # the state each chunk starts from
    for factor, chunk in zip(kept.unbind(2), added.unbind(2), strict=True):
        states.append(state)
        state = factor * state + chunk
    cross = (read * before.exp()) @ torch.stack(states, dim=2)
    out = weights(read, k, own, log_decay) @ v + cross
    return out.flatten(2, 3), state


def weights(read: Tensor, k: Tensor, own: Tensor, log_decay: Tensor) -> Tensor:
    """(..., t, s): the weight of token s in the output of token t, 0 for s > t."""
    if log_decay.shape[-1] == 1:
        # every channel alike: the decays are a mask (RetNet's D, SSD's L) on plain scores
        earlier = (read @ k.transpose(-1, -2)) * between(log_decay).squeeze(-1)
    else:
        size, rows = k.shape[-2], []
        for start in range(0, size, SUB_CHUNK):
            end = min(start + SUB_CHUNK, size)
            rows.append(_weights_of_block(read, k, log_decay, start, end))
        earlier = torch.cat(rows, dim=-2)
    return earlier + torch.diag_embed(own)


def _weights_of_block(read, k, log_decay, start, end):
    """Rows start ... end - 1 of the weights of earlier tokens, decays per channel."""
    size = k.shape[-2]
    inside, decays = slice(start, end), log_decay[..., start:end, :]
    pairs = read[..., inside, None, :] * k[..., None, inside, :] * between(decays)
    parts = [pairs.sum(-1)]
    if start:
        # from the block's start to t, and from s to the block's start
        before = F.pad(decays, (0, 0, 1, 0))[..., :-1, :].cumsum(-2)
        after = F.pad(log_decay[..., 1:start, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)
        q_part, k_part = read[..., inside, :] * before.exp(), k[..., :start, :] * after.exp()
        parts.insert(0, q_part @ k_part.transpose(-1, -2))
    return F.pad(torch.cat(parts, dim=-1), (0, size - end))


def between(log_decay: Tensor) -> Tensor:
    """(..., length, channels) -> (..., t, s, channels): w_{s+1} ... w_{t-1} for s < t, else 0."""
    size = log_decay.shape[-2]
    t = torch.arange(size, device=log_decay.device)
    # entry (m, s) is log w_m for m > s; its sum over m < t is that of s + 1 ... t - 1
    spread = log_decay[..., :, None, :].masked_fill(~(t[:, None] > t)[..., None], 0)
    sums = F.pad(spread, (0, 0, 0, 0, 1, 0))[..., :-1, :, :].cumsum(-3)
    return sums.exp().masked_fill(~(t[:, None] > t)[..., None], 0)
