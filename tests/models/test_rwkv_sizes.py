"""Released sizes of RWKV: our counts are the published numbers; small models are equally large."""

import pytest

from ntlib.models import presets, rwkv_sizes
from ntlib.models.rwkv_sizes import RELEASES, agrees, count, rwkv7, table, unused

# counted by the formulas of the author's README and of the papers, from sizes alone
COUNTS = {
    "RWKV-4 169M": 169_342_464,
    "RWKV-4 430M": 430_397_440,
    "RWKV-4 1.5B": 1_515_106_304,
    "RWKV-4 3B": 2_984_627_200,
    "RWKV-4 7B": 7_392_649_216,
    "RWKV-4 14B": 14_148_597_760,
    "RWKV-5 0.4B": 461_721_600,
    "RWKV-5 1.5B": 1_577_754_624,
    "RWKV-5 3B": 3_062_999_040,
    "RWKV-5 7B": 7_518_044_160,
    "RWKV-6 1.6B": 1_599_873_024,
    "RWKV-6 3B": 3_099_863_040,
    "RWKV-6 7B": 7_635_746_816,
    "RWKV-6 14B": 14_069_088_256,
    "RWKV-7 Pile 168M": 167_688_192,
    "RWKV-7 Pile 421M": 421_212_160,
    "RWKV-7 Pile 1.47B": 1_465_278_464,
    "RWKV-7 0.1B": 191_084_544,
    "RWKV-7 0.4B": 450_834_432,
    "RWKV-7 1.5B": 1_527_668_736,
    "RWKV-7 2.9B": 2_948_065_280,
    "RWKV-7 7.2B": 7_199_932_416,
}


@pytest.mark.parametrize("name", RELEASES)
def test_counts_are_those_of_the_official_files(name):
    config = RELEASES[name].config
    assert count(config) + unused(config) == COUNTS[name]


def test_the_author_says_how_many_parameters_nothing_reads():
    """README of RWKV-LM: 450.834432 M, "actually 450.767872 M"."""
    config = RELEASES["RWKV-7 0.4B"].config
    assert count(config) == 450_767_872
    assert unused(RELEASES["RWKV-6 3B"].config) == 0


def test_the_table_tells_where_names_and_numbers_part():
    rows = table().set_index("model")
    assert list(rows.index) == list(COUNTS)
    differ = rows.index[~rows["agrees"]]
    assert list(differ) == ["RWKV-5 1.5B", "RWKV-6 7B", "RWKV-7 0.1B"]
    unsure = rows.index[~rows["verified"]]
    assert list(unsure) == ["RWKV-6 7B", "RWKV-6 14B", "RWKV-7 2.9B", "RWKV-7 7.2B"]
    assert (rows["computed"] - rows["unused"] > 0).all()


def test_agreement_is_at_the_digits_given():
    assert agrees("169M", 169_342_464)
    assert agrees("1.5B", 1_549_999_999)
    assert not agrees("1.5B", 1_577_754_624)
    assert agrees("450.834432M", 450_834_432)
    assert not agrees("450.834432M", 450_834_433)


def test_ranks_of_an_unknown_width_are_not_guessed():
    with pytest.raises(ValueError, match=r"d_model must be one of 768, 1024, .* got 512"):
        rwkv7(512)


@pytest.mark.parametrize("vocab_size", [8, 256, 2048])
@pytest.mark.parametrize("architecture", rwkv_sizes.SMALL)
def test_small_models_are_as_large_as_the_transformer(architecture, vocab_size):
    ours = count(presets.small(architecture, vocab_size))
    assert ours == pytest.approx(count(presets.small("Transformer", vocab_size)), rel=0.005)


def test_an_unknown_small_model_is_named():
    with pytest.raises(ValueError, match=r"one of Transformer, .*RWKV-7, got 'RWKV-9'"):
        presets.small("RWKV-9", 8)
