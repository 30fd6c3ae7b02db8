"""The environment variables that TensorFlow reads while it is imported.

This module is the package's first import, so that it comes before TensorFlow's.
"""

import os

# TensorFlow uses oneDNN's kernels by default only on processors with AVX-512. On others
# they are several times faster too, and grouped convolutions have gradients only there.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
