import importlib
import os
import pkgutil
import platform
import subprocess
import sys

import keras
import pytest

import advrush_tf
from support.processes import ROOT


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_onednn_is_on_unless_the_user_says_otherwise(given, expected):
    environment = {k: v for k, v in os.environ.items() if "ONEDNN" not in k}
    if given is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = given
    program = (
        "import os, sys, importlib.abc\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'tensorflow':\n"
        "            print('seen', os.environ.get('TF_ENABLE_ONEDNN_OPTS'))\n"
        "            sys.exit()\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import advrush_tf\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.stdout.split() == ["seen", expected]


# TensorFlow decides as on a processor without AVX-512.
_TENSORFLOW_WITHOUT = (
    "import os\n"
    "os.environ['TF_ENABLE_ONEDNN_OPTS'] = '0'\n"
    "import tensorflow\n"
    "del os.environ['TF_ENABLE_ONEDNN_OPTS']\n"
)
_TENSORFLOW_WITH = _TENSORFLOW_WITHOUT.replace("'0'", "'1'")
_OURS = (
    "from advrush_tf import environment\nimport keras\n"
    "print(environment.onednn_is_on(), keras.config.backend())\n"
    "print(*keras.saving.get_custom_objects())\n"
)
_DECIDED = "import os\nos.environ['TF_ENABLE_ONEDNN_OPTS'] = '0'\nimport tensorflow\n"


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="oneDNN is x86's"
)
@pytest.mark.parametrize(
    ("before", "on", "warnings"),
    [
        (_TENSORFLOW_WITHOUT, "False", 1),
        (_TENSORFLOW_WITH, "True", 0),
        (_DECIDED, "False", 0),
        ("", "True", 0),
    ],
    ids=["too late", "on all the same", "the user's choice", "in time"],
)
def test_a_late_import_is_warned_of_once_and_registers_all(
    before, on, warnings, tmp_path
):
    # A backend that keras.json names is passed over, unless TensorFlow was first.
    if not before:
        (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    others = ("TF_ENABLE_ONEDNN_OPTS", "KERAS_BACKEND")
    environment = {k: v for k, v in os.environ.items() if k not in others}
    environment["KERAS_HOME"] = str(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", before + _OURS + "import advrush_tf.errors\n"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    decided, registered = result.stdout.splitlines()
    assert decided.split() == [on, "tensorflow"]
    assert set(registered.split()) == _registered_by_all_modules()
    told = result.stderr.count("RuntimeWarning: TensorFlow was imported before")
    assert told == warnings


def _registered_by_all_modules():
    """Names of the package's classes that Keras loads, whoever imported them."""
    for module in pkgutil.walk_packages(advrush_tf.__path__, "advrush_tf."):
        importlib.import_module(module.name)
    known = keras.saving.get_custom_objects().items()
    return {name for name, kind in known if kind.__module__.startswith("advrush_tf.")}
