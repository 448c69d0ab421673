"""Peak memory against sizes that can be counted by hand."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from ntlib.measuring import peak_bytes, tensor_bytes

N = 1 << 16
FLOATS = 4 * N


def test_what_dies_makes_room():
    def one_after_the_other():
        for _ in range(5):
            torch.empty(N)

    assert peak_bytes(one_after_the_other) == FLOATS


def test_what_lives_adds_up():
    assert peak_bytes(lambda: [torch.empty(N) for _ in range(5)]) == 5 * FLOATS


def test_views_do_not_count_and_keep_their_storage_alive():
    def views():
        whole = torch.empty(N)
        part = whole.view(2, -1)[0]
        del whole
        return part, torch.empty(N // 2)

    assert peak_bytes(views) == FLOATS + FLOATS // 2


def test_memory_from_before_does_not_count():
    before = torch.zeros(N)
    assert peak_bytes(lambda: before.view(2, -1).add_(1)) == 0
    assert peak_bytes(lambda: before + 1) == FLOATS


def test_growing_in_place_counts():
    assert peak_bytes(lambda: torch.empty(0).resize_(N)) == FLOATS


def test_a_reused_address_is_a_new_storage():
    before = [torch.zeros(N)]

    def replace():
        before[0].add_(1)
        before.clear()
        return [torch.empty(N) for _ in range(3)]

    assert peak_bytes(replace) == 3 * FLOATS


def test_backward_is_included():
    x = torch.randn(N, requires_grad=True)

    def forward_only():
        return x.exp().sin()

    def with_backward():
        x.exp().sin().sum().backward()
        x.grad = None

    assert peak_bytes(forward_only) == 2 * FLOATS
    assert peak_bytes(with_backward) > 3 * FLOATS


def test_tensors_saved_for_backward_stay_counted():
    x = torch.randn(N, requires_grad=True)

    def chain():
        y = x
        for _ in range(10):
            y = y.exp()
        return y

    assert peak_bytes(chain) == 10 * FLOATS
    with torch.no_grad():
        assert peak_bytes(chain) == 2 * FLOATS


@dataclass
class State:
    s: torch.Tensor
    position: int


def test_tensor_bytes_of_nested_states():
    pair = namedtuple("pair", "k v")
    tree = {
        "cache": [pair(torch.zeros(2, 3), torch.zeros(4, dtype=torch.float64))],
        "state": State(torch.zeros(8, dtype=torch.bfloat16), position=3),
        "nothing": None,
    }
    assert tensor_bytes(tree) == 24 + 32 + 16


def test_a_view_counts_its_own_elements():
    assert tensor_bytes(torch.zeros(100)[:10]) == 40


def test_tensor_bytes_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="tree holds a str"):
        tensor_bytes({"name": "x"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_on_a_gpu():
    # The caching allocator counts whole blocks of 512 bytes, which this size fills.
    assert peak_bytes(lambda: [torch.empty(N, device="cuda") for _ in range(3)], "cuda") == (
        3 * FLOATS
    )
