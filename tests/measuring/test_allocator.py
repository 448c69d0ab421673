import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys
import torch
from ntlib.measuring.allocator import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(2**24).add_(1)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
by_default = pages()
kept = keep_freed_memory()
pages()
print(int(kept), by_default, pages())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_large_tensors_reuse_pages():
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    kept, by_default, afterwards = map(int, done.stdout.split())
    if not kept:
        pytest.skip("this C library is not glibc")
    assert afterwards <= by_default / 10
