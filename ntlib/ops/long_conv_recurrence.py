"""The two recurrences inside the long convolution's kernel: complex states and real ones.

Both walk a fixed number of tokens, so that the compiler unrolls them: for each state, sixteen lanes
(channels) at a time, decay, b, c and h are loaded once, h stays in registers from token to token
and is put back. With eight tokens that leaves one load of x, one load and one store of y beside 10
multiply-adds per (token, state): bound by arithmetic, all data in the first-level cache. The
reverse first runs the tokens again, keeping h before each of them in `before` (1 KB), then walks
back with the gradient of h in registers.

The decay is near + rest, near = -1, 0 or 1 being the integer next to Re a. So a = 1 - 1e-6 keeps
all digits of the 1e-6 (rounded to float32 as a whole it would be off by 5% of it), and a = 1e-6
those of its own. What remains in float32 for complex a is the rounding of the rest: a phase that
drifts by up to 3e-8 per step, 1e-5 of the output where the state forgets within 1e3 steps.

Arrays: p, dp (states, parameters * LANES); h, dh (states, LANES or 2 * LANES); xs, ys and their
gradients (tokens * LANES). Flat rows, because the compiler vectorises only where it sees that all
distances between the rows of an array are constants.
"""

import numba

from ntlib.ops.compiled import cached, inlined

LANES = 16


def in_order(tokens):
    """Compile without leave to reorder sums: near h + rest h must not become (near + rest) h."""
    flags = {"contract", "nsz"}

    def decorate(function):
        # Machine code from the disk is linked by name: under one name for all numbers of tokens,
        # code for eight could be called where one is there, and write beyond its rows.
        function.__qualname__ = f"{function.__qualname__}_{tokens}"
        compiled = numba.njit(function, fastmath=flags, error_model="numpy", cache=True, nogil=True)
        return cached(compiled)

    return decorate


def complex_recurrence(tokens):
    """Parameters p: near, Re rest, Im rest, Re b, Im b, Re c, Im c; states h: Re, Im."""

    @in_order(tokens)
    def advance(p, h, xs, ys):
        """h moves by `tokens` tokens; ys gains Re(c . h) after each."""
        for n in range(h.shape[0]):
            q, g = p[n], h[n]
            for w in range(LANES):
                near, re, im = q[w], q[LANES + w], q[2 * LANES + w]
                b_re, b_im = q[3 * LANES + w], q[4 * LANES + w]
                c_re, c_im = q[5 * LANES + w], q[6 * LANES + w]
                r, i = g[w], g[LANES + w]
                for j in range(tokens):
                    x = xs[j * LANES + w]
                    s = near * r + (re * r - im * i + b_re * x)
                    i = near * i + (re * i + im * r + b_im * x)
                    r = s
                    ys[j * LANES + w] += c_re * r - c_im * i
                g[w], g[LANES + w] = r, i

    @in_order(tokens)
    def retreat(p, h, xs, dys, dh, dxs, dp, before):
        """From h before the tokens and dh after them: dh before them; dxs, dp gain theirs."""
        for n in range(h.shape[0]):
            q, g, dq, dg = p[n], h[n], dp[n], dh[n]
            for w in range(LANES):
                near, re, im = q[w], q[LANES + w], q[2 * LANES + w]
                b_re, b_im = q[3 * LANES + w], q[4 * LANES + w]
                c_re, c_im = q[5 * LANES + w], q[6 * LANES + w]
                da_re, da_im = dq[LANES + w], dq[2 * LANES + w]
                db_re, db_im = dq[3 * LANES + w], dq[4 * LANES + w]
                dc_re, dc_im = dq[5 * LANES + w], dq[6 * LANES + w]
                r, i = g[w], g[LANES + w]
                for j in range(tokens):
                    before[j * LANES + w], before[(tokens + j) * LANES + w] = r, i
                    x = xs[j * LANES + w]
                    s = near * r + (re * r - im * i + b_re * x)
                    i = near * i + (re * i + im * r + b_im * x)
                    r = s
                u, v = dg[w], dg[LANES + w]
                for back in range(tokens):
                    j = tokens - 1 - back
                    dy, x = dys[j * LANES + w], xs[j * LANES + w]
                    dc_re += dy * r
                    dc_im -= dy * i
                    u += c_re * dy
                    v -= c_im * dy
                    db_re += x * u
                    db_im += x * v
                    dxs[j * LANES + w] += b_re * u + b_im * v
                    r, i = before[j * LANES + w], before[(tokens + j) * LANES + w]
                    da_re += u * r + v * i
                    da_im += v * r - u * i
                    s = near * u + (re * u + im * v)
                    v = near * v + (re * v - im * u)
                    u = s
                dq[LANES + w], dq[2 * LANES + w] = da_re, da_im
                dq[3 * LANES + w], dq[4 * LANES + w] = db_re, db_im
                dq[5 * LANES + w], dq[6 * LANES + w] = dc_re, dc_im
                dg[w], dg[LANES + w] = u, v

    return advance, retreat


def real_recurrence(tokens):
    """Parameters p: near, rest, b, c; states h: one part."""

    @in_order(tokens)
    def advance(p, h, xs, ys):
        """h moves by `tokens` tokens; ys gains c . h after each."""
        for n in range(h.shape[0]):
            q, g = p[n], h[n]
            for w in range(LANES):
                near, rest, b, c, s = q[w], q[LANES + w], q[2 * LANES + w], q[3 * LANES + w], g[w]
                for j in range(tokens):
                    s = near * s + (rest * s + b * xs[j * LANES + w])
                    ys[j * LANES + w] += c * s
                g[w] = s

    @in_order(tokens)
    def retreat(p, h, xs, dys, dh, dxs, dp, before):
        """From h before the tokens and dh after them: dh before them; dxs, dp gain theirs."""
        for n in range(h.shape[0]):
            q, g, dq, dg = p[n], h[n], dp[n], dh[n]
            for w in range(LANES):
                near, rest, b, c, s = q[w], q[LANES + w], q[2 * LANES + w], q[3 * LANES + w], g[w]
                da, db, dc, u = dq[LANES + w], dq[2 * LANES + w], dq[3 * LANES + w], dg[w]
                for j in range(tokens):
                    before[j * LANES + w] = s
                    s = near * s + (rest * s + b * xs[j * LANES + w])
                for back in range(tokens):
                    j = tokens - 1 - back
                    dc += dys[j * LANES + w] * s
                    u += c * dys[j * LANES + w]
                    db += xs[j * LANES + w] * u
                    dxs[j * LANES + w] += b * u
                    s = before[j * LANES + w]
                    da += u * s
                    u = near * u + rest * u
                dq[LANES + w], dq[2 * LANES + w], dq[3 * LANES + w], dg[w] = da, db, dc, u

    return advance, retreat


@inlined
def get(x, t, count, lane, rows):
    """rows = `count` tokens of x from t on, LANES channels from `lane` on; zeros beyond."""
    width = min(LANES, x.shape[1] - lane)
    rows[:] = 0
    for j in range(count):
        source, target = x[t + j, lane : lane + width], rows[j * LANES : j * LANES + width]
        for w in range(width):
            target[w] = source[w]


@inlined
def put(rows, x, t, count, lane):
    width = min(LANES, x.shape[1] - lane)
    for j in range(count):
        source, target = rows[j * LANES : j * LANES + width], x[t + j, lane : lane + width]
        for w in range(width):
            target[w] = source[w]
