"""Imports the package before any test imports TensorFlow: see its `environment`."""

import runpy
from pathlib import Path

import pytest

from advrush_tf import environment as environment

_SCRIPT = Path(__file__).resolve().parent.parent / "testdata" / "make_imagenet_like.py"


@pytest.fixture(scope="session")
def imagenet_like(tmp_path_factory):
    """Folders of small data sets like imagenet2012 and imagenet_resized/64x64."""
    make = runpy.run_path(str(_SCRIPT))["make_imagenet_like"]
    return make(tmp_path_factory.mktemp("imagenet_like"))
