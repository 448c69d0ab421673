"""One RetNet mixer, ours against torchscale's, side by side in one process.

    python -m benchmarks.retnet_vs_torchscale

Training step, prefill and decoding at width 256; theirs at each of several chunk sizes in its
chunkwise mode, so that its best one can be named. Rows go to data/results/retnet-vs-torchscale.
"""

import time
from types import SimpleNamespace

import pandas as pd
import torch

from ntlib import results
from ntlib.measuring import compare
from ntlib.mixers.retention import RetentionConfig
from tests.torchscale_peer import import_torchscale

D_MODEL, HEADS, SEED = 256, 4, 0
SHAPES = ((4, 1024), (1, 4096))
CHUNKS = (64, 128, 256, 512)
DECODE_BATCHES = (1, 16)
DECODE_STEPS = 32
COLUMNS = {
    "phase": "prefill (forward), training (forward and backward) or decoding (per token)",
    "value_width": "of all heads together",
    "batch": "sequences",
    "length": "tokens per sequence; position at which decoding starts",
    "contender": "implementation, with the chunk size of torchscale's chunkwise mode",
    "median_s": "seconds, median over repeats",
    "q25_s": "seconds, lower quartile",
    "q75_s": "seconds, upper quartile",
    "min_s": "seconds, minimum",
    "repeats": "rounds, contenders alternating",
}


def peer(value_width: int, chunk: int):
    """Their mixer and position module."""
    torchscale = import_torchscale()
    args = SimpleNamespace(
        multiway=False,
        layernorm_eps=1e-6,
        decoder_embed_dim=D_MODEL,
        decoder_retention_heads=HEADS,
        recurrent_chunk_size=chunk,
    )
    mixer = torchscale.MultiScaleRetention(args, D_MODEL, value_width, HEADS)
    return mixer, torchscale.RetNetRelPos(args)


def sequences(value_width: int, batch: int, length: int, backward: bool):
    """Contenders that read whole sequences; position tables of torchscale are made beforehand."""
    x = torch.randn(batch, length, D_MODEL, generator=torch.Generator().manual_seed(SEED))
    ours = RetentionConfig(HEADS, value_dim=value_width).build(D_MODEL)

    def run(forward):
        with torch.set_grad_enabled(backward):
            y = forward()
            if backward:
                y.sum().backward()

    contenders = {"ntlib": lambda: run(lambda: ours(x)[0])}
    for chunk in CHUNKS:
        theirs, position = peer(value_width, chunk)
        tables = position(length, chunkwise_recurrent=True)
        contenders[f"torchscale, chunks of {chunk}"] = lambda theirs=theirs, tables=tables: run(
            lambda: theirs(x, tables, chunkwise_recurrent=True)
        )
    return contenders


def decoding(value_width: int, batch: int):
    """Contenders that decode DECODE_STEPS tokens one by one, positions included."""
    x = torch.randn(batch, D_MODEL, generator=torch.Generator().manual_seed(SEED))
    ours = RetentionConfig(HEADS, value_dim=value_width).build(D_MODEL)
    theirs, position = peer(value_width, CHUNKS[0])

    @torch.no_grad()
    def run_ours():
        state = ours.init_state(batch)
        for _ in range(DECODE_STEPS):
            _, state = ours.step(x, state)

    @torch.no_grad()
    def run_theirs():
        state = {}
        for t in range(DECODE_STEPS):
            theirs(x[:, None], position(t + 1, activate_recurrent=True), incremental_state=state)

    return {"ntlib": run_ours, "torchscale, recurrent": run_theirs}


def measure() -> pd.DataFrame:
    """All phases and shapes."""
    frames = []
    for value_width in (D_MODEL, 2 * D_MODEL):
        for batch, length in SHAPES:
            for phase in ("prefill", "training"):
                contenders = sequences(value_width, batch, length, phase == "training")
                frames.append((phase, value_width, batch, length, compare(contenders, repeats=9)))
        for batch in DECODE_BATCHES:
            frame = compare(decoding(value_width, batch), repeats=15)
            seconds = ["median_s", "q25_s", "q75_s", "min_s"]
            frame[seconds] /= DECODE_STEPS
            frames.append(("decoding", value_width, batch, 0, frame))
    parts = []
    for phase, value_width, batch, length, frame in frames:
        where = {"phase": phase, "value_width": value_width, "batch": batch, "length": length}
        parts.append(frame.assign(**where)[list(COLUMNS)])
    return pd.concat(parts, ignore_index=True)


def main() -> None:
    start = time.perf_counter()
    frame = measure()
    path = results.save(
        "retnet-vs-torchscale",
        frame,
        command="python -m benchmarks.retnet_vs_torchscale",
        seeds=(SEED,),
        profile="full",
        duration_s=time.perf_counter() - start,
        columns=COLUMNS,
    )
    keys = ["phase", "value_width", "batch", "length"]
    ours = frame[frame.contender == "ntlib"].set_index(keys).median_s
    theirs = frame[frame.contender != "ntlib"].groupby(keys).median_s.min()
    print((theirs / ours).rename("best of torchscale / ntlib").round(2).to_string())
    print(path)


if __name__ == "__main__":
    main()
