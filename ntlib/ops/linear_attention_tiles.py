"""Small matrix products inside kernels: what the kernels of linear attention are made of.

A chunk of CHUNK tokens lies in blocks of WIDTH channels, (block, CHUNK, WIDTH); a state lies in
tiles, (block of rows, block of columns, WIDTH, WIDTH). Both sizes are constants of the machine
code, rows lie a constant distance apart, and one-dimensional views hold them: so LLVM needs no
checks for overlaps, unrolls every inner loop and keeps its sums in vector registers.
"""

from ntlib.ops.compiled import exp, inlined

CHUNK = 8  # the products below are unrolled for eight rows
# Channels of a block. LLVM walks over a row in four registers of 16 numbers at a time and leaves a
# shorter row to scalar code: heads narrower than 64 waste work, but less time than that.
WIDTH = 64
SQUARE = WIDTH * WIDTH
BLOCK = CHUNK * WIDTH
SEGMENT = 128  # tokens between two states that are kept for the backward pass


@inlined
def add_product(out, a, b, inner):
    """out += a b for a (CHUNK, inner), its rows WIDTH apart, and b (inner, WIDTH).

    Four rows of out meet eight rows of b at a time: 32 multiply-adds for 12 loads and 4 stores.
    """
    for t in range(0, CHUNK, 4):
        o = out[t * WIDTH :]
        for i in range(0, inner, 8):
            rows, factors = b[i * WIDTH :], a[t * WIDTH + i :]
            for j in range(WIDTH):
                o_0, o_1, o_2, o_3 = o[j], o[WIDTH + j], o[2 * WIDTH + j], o[3 * WIDTH + j]
                for u in range(8):
                    x = rows[u * WIDTH + j]
                    o_0 += factors[u] * x
                    o_1 += factors[WIDTH + u] * x
                    o_2 += factors[2 * WIDTH + u] * x
                    o_3 += factors[3 * WIDTH + u] * x
                o[j], o[WIDTH + j], o[2 * WIDTH + j], o[3 * WIDTH + j] = o_0, o_1, o_2, o_3


@inlined
def advance(tile, rows, columns, a, b):
    """tile_ij = rows_i columns_j tile_ij + sum_t a_ti b_tj: a chunk enters a state."""
    for i in range(0, WIDTH, 4):
        o, factors = tile[i * WIDTH :], a[i:]
        for j in range(WIDTH):
            o_0 = rows[i] * columns[j] * o[j]
            o_1 = rows[i + 1] * columns[j] * o[WIDTH + j]
            o_2 = rows[i + 2] * columns[j] * o[2 * WIDTH + j]
            o_3 = rows[i + 3] * columns[j] * o[3 * WIDTH + j]
            for t in range(CHUNK):
                x = b[t * WIDTH + j]
                o_0 += factors[t * WIDTH] * x
                o_1 += factors[t * WIDTH + 1] * x
                o_2 += factors[t * WIDTH + 2] * x
                o_3 += factors[t * WIDTH + 3] * x
            o[j], o[WIDTH + j], o[2 * WIDTH + j], o[3 * WIDTH + j] = o_0, o_1, o_2, o_3


@inlined
def load(blocks, x, start, stride, tokens, channels):
    """Rows start, start + stride, ... of a sequence; what is missing to whole blocks is 0."""
    blocks[:] = 0
    for t in range(tokens):
        row = x[start + t * stride :]
        for i in range(0, channels, WIDTH):
            block, part = blocks[i * CHUNK + t * WIDTH :], row[i:]
            for j in range(min(WIDTH, channels - i)):
                block[j] = part[j]


@inlined
def load_decay(blocks, x, start, stride, per_channel, tokens, channels):
    """The same for decays: e^x, once for all channels unless per_channel; 1 where nothing is."""
    blocks[:] = 1
    for t in range(tokens):
        row = x[start + t * stride :]
        same = exp(row[0])
        for i in range(0, channels, WIDTH):
            block, part = blocks[i * CHUNK + t * WIDTH :], row[i * per_channel :]
            if per_channel:
                for j in range(min(WIDTH, channels - i)):
                    block[j] = exp(part[j])
            else:
                block[:WIDTH] = same


@inlined
def store(x, start, stride, tokens, channels, blocks):
    """The inverse of load."""
    for t in range(tokens):
        row = x[start + t * stride :]
        for i in range(0, channels, WIDTH):
            block, part = blocks[i * CHUNK + t * WIDTH :], row[i:]
            for j in range(min(WIDTH, channels - i)):
                part[j] = block[j]


@inlined
def fade_keys(faded, whole, k, w):
    """One block: faded_s = w_{s+1} w_{s+2} ... k_s, to the chunk's end; whole: all w's product."""
    whole[:WIDTH] = 1
    for s in range(CHUNK - 1, -1, -1):
        row, key, decay = faded[s * WIDTH :], k[s * WIDTH :], w[s * WIDTH :]
        for i in range(WIDTH):
            row[i] = key[i] * whole[i]
            whole[i] *= decay[i]


@inlined
def load_state(tiles, state):
    """A matrix into tiles; 0 beyond its edges."""
    across = (state.shape[1] + WIDTH - 1) // WIDTH
    tiles[:] = 0
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            tile = i // WIDTH * across + j // WIDTH
            tiles[tile * SQUARE + i % WIDTH * WIDTH + j % WIDTH] = state[i, j]


@inlined
def store_state(state, tiles):
    """The inverse of load_state."""
    across = (state.shape[1] + WIDTH - 1) // WIDTH
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            tile = i // WIDTH * across + j // WIDTH
            state[i, j] = tiles[tile * SQUARE + i % WIDTH * WIDTH + j % WIDTH]
