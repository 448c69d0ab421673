"""The roofline's arithmetic, and one measurement with loose physical limits."""

import pytest
import torch

from ntlib.measuring import Machine, measure_machine
from ntlib.measuring import roofline as module

MACHINE = Machine("a CPU", 2, matmul_flops_per_s=200e9, bandwidth_bytes_per_s=20e9)


def test_the_slower_of_both_limits_decides():
    assert MACHINE.ridge == 10
    assert MACHINE.seconds(flops=200e9, bytes=1) == 1
    assert MACHINE.seconds(flops=1, bytes=20e9) == 1
    assert "200 GFLOP/s" in str(MACHINE)


def test_measures_and_restores_the_threads(monkeypatch):
    monkeypatch.setattr(module, "GEMM_SIZE", 256)
    monkeypatch.setattr(module, "STREAM_ROWS", 512)
    monkeypatch.setattr(module, "STREAM_COLUMNS", 512)
    monkeypatch.setattr(module, "_best_seconds", lambda run, budget_s: run() is None or 0.5)
    before = torch.get_num_threads()
    machine = measure_machine(threads=1)
    assert machine.threads == 1
    assert torch.get_num_threads() == before
    assert machine.matmul_flops_per_s == 2 * 256**3 / 0.5
    assert machine.bandwidth_bytes_per_s == 512 * 512 * 4 / 0.5


def test_refuses_no_threads():
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        measure_machine(threads=0)
