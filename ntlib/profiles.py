"""Sizes of every experiment in one place: how large a chapter's runs are under each profile."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """One consistent set of sizes; see PROFILES."""

    name: str
    seeds: tuple[int, ...]  # each training curve is drawn as the mean and range over these
    text_steps: int  # language modelling: optimiser steps of text_batch windows of text_length
    text_batch: int
    text_length: int
    recall_steps: int  # associative recall: optimiser steps of recall_batch sequences
    recall_batch: int
    graded_steps: int  # recall of few and many pairs in turn: optimiser steps of 960 tokens
    version_steps: int  # RWKV's versions: optimiser steps on the same windows as text_steps
    context_windows: int  # held-out windows, four times text_length long, for loss by position
    tracking_steps: int  # state tracking: optimiser steps of tracking_batch sequences
    tracking_batch: int
    tracking_length: int  # trained on; tested on up to 16 times as much
    memory_steps: int  # small S4 models whose memory is looked at: optimiser steps
    digits_steps: int  # optimiser steps of 32 images of 64 pixels
    list_steps: int  # ListOps: optimiser steps of 32 lists
    pathfinder_steps: int  # optimiser steps of 32 images
    gap_steps: int  # copying over gaps: optimiser steps of 32 sequences
    tones_steps: int  # tones: optimiser steps of 32 sequences
    copied: int  # selective copying: symbols to copy ...
    copying_context: int  # ... out of so many places
    copying_steps: int  # optimiser steps of 8 of these, or more that are shorter
    induction_length: int  # induction heads: longest sequence trained on
    induction_steps: int  # optimiser steps of 8 of these, or more that are shorter
    far_lengths: tuple[int, ...]  # tested on
    far_tokens: int  # at each of them, in all, but one sequence at least
    ablation_length: int  # Mamba with parts taken out: bytes of a window
    ablation_steps: int  # optimiser steps of 8 windows
    fit_steps: int  # steps in which weights of one form are fitted to those of another
    scan_length: int  # at which a scan that stores all states is timed beside a fused one
    sparse_lengths: tuple[int, ...]  # at which attention with all and with few scores is measured
    long_lengths: tuple[int, ...]  # lengths for the exponents of what should be linear
    lengths: tuple[int, ...]  # sequence lengths at which time and memory are measured
    repeats: int  # rounds of every timing comparison
    decode_contexts: tuple[int, ...]  # tokens already read when a decoding step is timed
    wide_d_model: int  # width of the one layer that a headline is measured on; 4096 is a 7B model's
    wide_context: int  # its cache
    wide_batches: tuple[int, ...]  # sequences decoded at once


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",  # seconds: proves that every path works, shows nothing
            seeds=(0, 1, 2),
            text_steps=4,
            text_batch=4,
            text_length=32,
            recall_steps=4,
            recall_batch=8,
            graded_steps=4,
            version_steps=4,
            context_windows=4,
            tracking_steps=4,
            tracking_batch=8,
            tracking_length=8,
            digits_steps=4,
            list_steps=4,
            pathfinder_steps=4,
            gap_steps=4,
            tones_steps=4,
            memory_steps=4,
            copied=2,
            copying_context=16,
            copying_steps=4,
            induction_length=32,
            induction_steps=4,
            far_lengths=(16, 64),
            far_tokens=256,
            ablation_length=32,
            ablation_steps=4,
            fit_steps=4,
            scan_length=128,
            sparse_lengths=(64, 128, 256),
            long_lengths=(64, 128, 256),
            lengths=(64, 128, 256),
            repeats=2,
            decode_contexts=(64, 128, 256),
            wide_d_model=256,
            wide_context=256,
            wide_batches=(1, 2),
        ),
        Profile(
            name="book",  # the committed outputs: about three minutes per chapter on two cores
            seeds=(0, 1, 2),
            text_steps=500,
            text_batch=16,
            text_length=128,
            recall_steps=600,
            recall_batch=64,
            graded_steps=1500,
            version_steps=250,
            context_windows=64,
            tracking_steps=600,
            tracking_batch=64,
            tracking_length=16,
            digits_steps=300,
            list_steps=600,
            pathfinder_steps=600,
            gap_steps=400,
            tones_steps=80,
            memory_steps=200,
            copied=4,
            copying_context=128,
            copying_steps=400,
            induction_length=256,
            induction_steps=300,
            far_lengths=tuple(2**e for e in (6, 8, 9, 10, 12, 14, 16, 20)),
            far_tokens=2**16,
            ablation_length=64,
            ablation_steps=150,
            fit_steps=150,
            scan_length=512,
            sparse_lengths=(1024, 2048, 4096, 8192, 16384),
            long_lengths=(1024, 4096, 16384, 65536),
            lengths=(256, 512, 1024, 2048, 4096, 8192),
            repeats=5,
            decode_contexts=(512, 1024, 2048, 4096, 8192, 16384),
            wide_d_model=4096,
            wide_context=8192,
            wide_batches=(1, 2, 4, 8),
        ),
        Profile(
            name="full",  # an hour of a workstation
            seeds=(0, 1, 2, 3, 4),
            text_steps=5000,
            text_batch=32,
            text_length=256,
            recall_steps=2000,
            recall_batch=64,
            graded_steps=6000,
            version_steps=1500,
            context_windows=128,
            tracking_steps=1000,
            tracking_batch=64,
            tracking_length=16,
            digits_steps=1500,
            list_steps=4000,
            pathfinder_steps=4000,
            gap_steps=2000,
            tones_steps=400,
            memory_steps=1000,
            copied=16,
            copying_context=1024,
            copying_steps=4000,
            induction_length=256,
            induction_steps=3000,
            far_lengths=tuple(2**e for e in range(6, 21)),
            far_tokens=2**22,
            ablation_length=256,
            ablation_steps=1500,
            fit_steps=400,
            scan_length=2048,
            sparse_lengths=(1024, 2048, 4096, 8192, 16384),
            long_lengths=(1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072),
            lengths=(256, 512, 1024, 2048, 4096, 8192, 16384, 32768),
            repeats=9,
            decode_contexts=(512, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
            wide_d_model=4096,
            wide_context=8192,
            wide_batches=(1, 2, 4, 8, 16, 32),
        ),
    )
}


def load_profile(name: str) -> Profile:
    """The profile of that name. Raises ValueError that lists the names."""
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]
