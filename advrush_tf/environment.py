"""The environment variables that TensorFlow and Keras read while they are imported.

This module is the package's first import, so that it comes before TensorFlow's.
"""

import os
import platform
import sys
import warnings

# TensorFlow uses oneDNN's kernels by default only on processors with AVX-512. On others
# they are several times faster too, and grouped convolutions have gradients only there.
_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def onednn_is_on() -> bool:
    """Returns True if TensorFlow uses oneDNN's kernels, decided when it is imported."""
    # Nothing public says; TensorFlow's own tests ask this. It initialises no device.
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


def _check_keras() -> None:
    """Raises ImportError where Keras is set to another backend than needed.

    Without `KERAS_BACKEND` in the environment, a backend in keras.json is passed over.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise ImportError(
            f"advrush_tf needs Keras' TensorFlow backend, and KERAS_BACKEND is "
            f"{backend!r}; unset KERAS_BACKEND",
            name="advrush_tf",
        )
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        raise ImportError(
            "advrush_tf needs Keras 3, and TF_USE_LEGACY_KERAS asks TensorFlow for "
            "Keras 2; unset TF_USE_LEGACY_KERAS",
            name="advrush_tf",
        )
    if (keras := sys.modules.get("keras")) and keras.config.backend() != "tensorflow":
        raise ImportError(
            "advrush_tf needs Keras' TensorFlow backend, and Keras was imported with "
            f"{keras.config.backend()!r}; import advrush_tf first",
            name="advrush_tf",
        )


def _turn_on() -> None:
    """Turns oneDNN on unless the user has decided, and warns where that is too late."""
    value = os.environ.setdefault(_VARIABLE, "1")
    if "tensorflow" not in sys.modules or value.lower() in ("0", "false"):
        return
    # Elsewhere there may be no oneDNN to turn on.
    if platform.machine().lower() in ("x86_64", "amd64") and not onednn_is_on():
        warnings.warn(
            "TensorFlow was imported before advrush_tf and has left oneDNN's kernels "
            "off, which makes steps up to twice as slow: import advrush_tf first, or "
            f"set {_VARIABLE}=1 before Python starts ({_VARIABLE}=0 to keep them off "
            "without this warning)",
            RuntimeWarning,
            stacklevel=2,
        )


_check_keras()
_turn_on()
