"""The small models are as large as the small Transformer."""

import pytest

from ntlib import cost_model
from ntlib.models import presets


@pytest.mark.parametrize(
    "architecture",
    ["Linear attention", "RetNet", "Local attention", "S4", "S4D", "DSS", "S5", "Mamba", "Mamba-2"],
)
@pytest.mark.parametrize("vocab_size", [16, 256])
def test_small_models_have_equal_parameters(architecture, vocab_size):
    ours = cost_model.parameters(presets.small(architecture, vocab_size))
    theirs = cost_model.parameters(presets.small("Transformer", vocab_size))
    assert ours == pytest.approx(theirs, rel=0.005)
