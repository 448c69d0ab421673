"""RetNet as its authors released it (torchscale on PyPI), made importable without its training
dependencies."""

import sys
from types import ModuleType, SimpleNamespace

import pytest


def import_torchscale():
    """(MultiScaleRetention, RetNetRelPos, RetNetDecoder, RetNetConfig); skips the test where
    torchscale is not installed.

    fairscale and timm are only used for checkpointing and stochastic depth, which stay switched
    off.
    """
    pytest.importorskip(
        "torchscale", reason="torchscale is not installed (make test installs it from benchmarks/)"
    )
    for name, attributes in {
        "fairscale": {},
        "fairscale.nn": {"checkpoint_wrapper": None, "wrap": None},
        "timm": {},
        "timm.models": {},
        "timm.models.layers": {"drop_path": None},
    }.items():
        module = sys.modules.setdefault(name, ModuleType(name))
        for attribute, value in attributes.items():
            if not hasattr(module, attribute):
                setattr(module, attribute, value)
    from torchscale.architecture.config import RetNetConfig
    from torchscale.architecture.retnet import RetNetDecoder, RetNetRelPos
    from torchscale.component.multiscale_retention import MultiScaleRetention

    return SimpleNamespace(
        MultiScaleRetention=MultiScaleRetention,
        RetNetRelPos=RetNetRelPos,
        RetNetDecoder=RetNetDecoder,
        RetNetConfig=RetNetConfig,
    )
