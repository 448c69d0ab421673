"""The small models are as large as the small Transformer."""

import pytest

from ntlib import cost_model
from ntlib.models import presets


@pytest.mark.parametrize(
    "architecture",
    [
        "Transformer (no positions)",
        "Linear attention",
        "RetNet",
        "Local attention",
        "Strided attention",
        "S4",
        "S4D",
        "DSS",
        "S5",
        "Mamba",
        "Mamba-2",
        "Hybrid",
    ],
)
@pytest.mark.parametrize("vocab_size", [16, 256])
def test_small_models_have_equal_parameters(architecture, vocab_size):
    ours = cost_model.parameters(presets.small(architecture, vocab_size))
    theirs = cost_model.parameters(presets.small("Transformer", vocab_size))
    assert ours == pytest.approx(theirs, rel=0.005)


def test_the_readings_of_yan_differ_in_the_mixer_and_not_in_size():
    totals = {
        name: cost_model.parameters(presets.small_yan(name, 256, 128))
        for name in presets.YAN_READINGS
    }
    assert max(totals.values()) / min(totals.values()) < 1.005
    assert presets.small_yan("Yan (norm of rows)", 256, 128).mixer.row_length == 128
    with pytest.raises(ValueError, match="reading must be one of Yan, Yan"):
        presets.small_yan("Yan (guess)", 256, 128)
