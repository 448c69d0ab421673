"""Conditions that the operators' tests run under."""

import jaxtyping
import pytest
import torch


@pytest.fixture
def own_errors():
    """Without run-time shape checks, as for a reader."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """What `empty` hands out is filled with NaN, so that a number never written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
