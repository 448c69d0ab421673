"""Time, memory, scaling exponents, the machine's limits, and where a number came from."""

from ntlib.measuring.memory import peak_bytes, tensor_bytes
from ntlib.measuring.provenance import environment
from ntlib.measuring.roofline import Machine, measure_machine
from ntlib.measuring.scaling import ScalingFit, fit_exponent
from ntlib.measuring.timing import Ratio, compare, ratio

__all__ = [
    "Machine",
    "Ratio",
    "ScalingFit",
    "compare",
    "environment",
    "fit_exponent",
    "measure_machine",
    "peak_bytes",
    "ratio",
    "tensor_bytes",
]
