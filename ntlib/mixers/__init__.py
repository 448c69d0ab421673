"""Sequence mixers: one file per architecture, each a module that maps (batch, length, d_model) to
the same."""
