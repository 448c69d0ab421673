"""What tests in more than one folder or file share."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest


@pytest.fixture
def clean_matplotlib():
    """Draw without a screen, and leave settings and figures as they were."""
    with mpl.rc_context():
        mpl.use("agg")
        yield
    plt.close("all")
