"""Shape checks stand aside where a test is about the operators' own errors."""

import jaxtyping
import pytest


@pytest.fixture
def own_errors():
    """Without run-time shape checks, as for a reader."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
