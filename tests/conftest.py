"""Prepares TensorFlow before any test imports it."""

import gc
import os
import runpy
from pathlib import Path

import pytest

from advrush_tf import environment as environment

# The tests' tensors are small: to share one among threads takes longer than it saves.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

_SCRIPT = Path(__file__).resolve().parent.parent / "testdata" / "make_imagenet_like.py"


def pytest_configure():
    """Divides the processor, for the tests of strategies."""
    # Not above: the environment must be set before TensorFlow is imported.
    from support import graphs, replicas

    replicas.divide_processor()
    graphs.optimise_graphs(False)
    graphs.forget_where_operations_are_made()
    # A graph is some hundred thousand objects, almost none of them in cycles. Python's
    # search for those is a tenth of the time that tracing takes, and one through all
    # that earlier tests have left takes a minute.
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000)


@pytest.fixture(scope="session")
def imagenet_like(tmp_path_factory):
    """Folders of small data sets like imagenet2012 and imagenet_resized/64x64."""
    make = runpy.run_path(str(_SCRIPT))["make_imagenet_like"]
    return make(tmp_path_factory.mktemp("imagenet_like"))
