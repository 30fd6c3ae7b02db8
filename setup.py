"""Installs advrush_tf."""

import re
from pathlib import Path

from setuptools import find_packages, setup

_VERSION_FILE = Path(__file__).parent / "advrush_tf" / "version.py"


def _version() -> str:
    """Reads the version without importing the package, whose needs come later."""
    found = re.search(r'^__version__ = "(.+)"$', _VERSION_FILE.read_text("utf-8"), re.M)
    if found is None:
        raise ValueError(f"No version found in {_VERSION_FILE}.")
    return found.group(1)


setup(
    name="advrush_tf",
    version=_version(),
    description="Search for adversarially robust neural architectures in TensorFlow",
    license="Apache-2.0",
    packages=find_packages(include=["advrush_tf*"]),
    package_data={"advrush_tf.runs": ["report.html.jinja"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "attrs>=24.1",
        # Code of this version is mended, which needs its very names.
        "cleverhans==4.0.0",
        "h5py>=3.11",
        # tensorflow-datasets needs this one without declaring it.
        "importlib_resources>=6.4",
        "jinja2>=3.1,<4",
        "keras>=3.15,<4",
        "matplotlib>=3.9",
        "numpy>=2.0,<3",
        "psutil>=5.9",
        # The first whose wheels bring Graphviz with them.
        "pygraphviz>=2.0",
        "scipy>=1.15,<2",
        "tensorboard>=2.21,<3",
        "tensorflow>=2.21,<3",
        "tensorflow-datasets>=4.9.10,<5",
        "tqdm>=4.66",
    ],
    extras_require={"dev": ["mypy", "pytest", "pytest-xdist", "ruff", "scikit-learn"]},
)
