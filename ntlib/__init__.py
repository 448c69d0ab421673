"""Sequence models beyond the Transformer: what the chapters of the book share."""
