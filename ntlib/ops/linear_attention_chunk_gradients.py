"""Inside one chunk of linear attention's backward pass; see linear_attention_backward_kernel.

Every function works on one block of WIDTH channels of the keys, rows of CHUNK tokens; pairs is
P (t, s), weights the transposed weights (s, t) with rows WIDTH apart.
"""

from ntlib.ops.compiled import inlined
from ntlib.ops.linear_attention_tiles import BLOCK, CHUNK, WIDTH


@inlined
def pair_products(pairs, d, v):
    """P_ts = d_t . v_s for s <= t."""
    pairs[:] = 0
    for j in range(0, len(v), BLOCK):
        for t in range(CHUNK):
            for s in range(t + 1):
                a, b = d[j + t * WIDTH :], v[j + s * WIDTH :]
                total = pairs.dtype.type(0)
                for i in range(WIDTH):
                    total += a[i] * b[i]
                pairs[t * CHUNK + s] += total


@inlined
def add_column_products(out, a, b):
    """out_i += sum_j a_ji b_ji over a tile."""
    for j in range(0, WIDTH, 4):
        x, y = a[j * WIDTH :], b[j * WIDTH :]
        for i in range(WIDTH):
            for u in range(0, 4 * WIDTH, WIDTH):
                out[i] += x[u + i] * y[u + i]


@inlined
def through_state(y, both, k, w, later, dk, dw):
    """What G sees: dk_s and the decays, with S's own part, both = row sums of S * G, going on
    through the recurrence in which k_s Y_s enters. dk and dw start here."""
    row = later[CHUNK * WIDTH :]
    row[:WIDTH] = 1
    for s in range(CHUNK - 1, -1, -1):
        at = s * WIDTH
        new, old, decay, fresh, out = later[at:], later[at + WIDTH :], w[at:], y[at:], dk[at:]
        for i in range(WIDTH):  # later_{s+1} = w_{s+1} ... w_last
            out[i] = old[i] * fresh[i]
            new[i] = old[i] * decay[i]
    for s in range(CHUNK):
        at = s * WIDTH
        rest, decay, key, fresh, out = later[at + WIDTH :], w[at:], k[at:], y[at:], dw[at:]
        for i in range(WIDTH):
            before = decay[i] * both[i]
            out[i] = rest[i] * before
            both[i] = before + key[i] * fresh[i]


@inlined
def through_outputs(pairs, k, w, read, z, later, dk, dw, weights):
    """What later outputs of the chunk see. z_t becomes the gradient of read_t, read_t is faded to
    the chunk's start; weights_st collects the transposed weights for dv."""
    for t in range(CHUNK):
        row = read[t * WIDTH :]
        for s in range(t - 1, -1, -1):
            decay, key, kept = w[s * WIDTH :], k[s * WIDTH :], later[t * BLOCK + s * WIDTH :]
            total = weights.dtype.type(0)
            for i in range(WIDTH):  # row = w_{s+1} ... w_{t-1} read_t
                total += row[i] * key[i]
                kept[i] = row[i]
                row[i] *= decay[i]
            weights[s * WIDTH + t] += total
    for s in range(CHUNK):
        out = dk[s * WIDTH :]
        for t in range(s + 1, CHUNK):
            kept, pair = later[t * BLOCK + s * WIDTH :], pairs[t * CHUNK + s]
            for i in range(WIDTH):
                out[i] += pair * kept[i]
    for t in range(CHUNK):
        seen = z[t * WIDTH :]
        for s in range(t):
            at, pair = s * WIDTH, pairs[t * CHUNK + s]
            kept, decay, key, out = later[t * BLOCK + at :], w[at:], k[at:], dw[at:]
            for i in range(WIDTH):  # seen = S_{s-1} d_t, then S_s d_t
                before = decay[i] * seen[i]
                out[i] += kept[i] * before
                seen[i] = before + pair * key[i]


@inlined
def own_reads_new(pairs, q, k, w, z, dk, dw, weights):
    """Without a bonus: read_t = w_t q_t, and token t itself with weight q_t . k_t; z becomes dq."""
    for t in range(CHUNK):
        at, pair = t * WIDTH, pairs[t * CHUNK + t]
        query, key, decay, out, d_key, d_log = q[at:], k[at:], w[at:], z[at:], dk[at:], dw[at:]
        total = weights.dtype.type(0)
        for i in range(WIDTH):
            total += query[i] * key[i]
            through = decay[i] * out[i]
            d_log[i] += query[i] * through
            d_key[i] += pair * query[i]
            out[i] = through + pair * key[i]
        weights[t * WIDTH + t] += total


@inlined
def own_with_bonus(pairs, q, k, u, z, dk, du, weights):
    """With a bonus: read_t = q_t, and token t itself with weight q_t . (u k_t); z becomes dq."""
    for t in range(CHUNK):
        at, pair = t * WIDTH, pairs[t * CHUNK + t]
        query, key, out, d_key = q[at:], k[at:], z[at:], dk[at:]
        total = weights.dtype.type(0)
        for i in range(min(WIDTH, len(u))):
            total += u[i] * query[i] * key[i]
            d_key[i] += pair * u[i] * query[i]
            out[i] += pair * u[i] * key[i]
            du[i] += pair * query[i] * key[i]
        weights[t * WIDTH + t] += total


@inlined
def add_decay(d_decay, start, stride, per_channel, tokens, channels, dw):
    """Gradients of log decays, summed over what shares one."""
    for t in range(tokens):
        row = d_decay[start + t * stride :]
        for i in range(0, channels, WIDTH):
            block, part = dw[i * CHUNK + t * WIDTH :], row[i * per_channel :]
            total = dw.dtype.type(0)
            if per_channel:
                for j in range(min(WIDTH, channels - i)):
                    part[j] += block[j]
            else:
                for j in range(min(WIDTH, channels - i)):
                    total += block[j]
                part[0] += total
