"""Installs advrush_tf."""

import re
from pathlib import Path

from setuptools import find_packages, setup

_ROOT = Path(__file__).parent
_LAUNCHERS = ("search", "fit", "attack", "landscape", "study", "convert", "benchmark")
_PAPER = "https://arxiv.org/abs/2108.01289"


def _version() -> str:
    """Reads the version without importing the package, whose needs come later."""
    path = _ROOT / "advrush_tf" / "version.py"
    found = re.search(r'^__version__ = "(.+)"$', path.read_text("utf-8"), re.M)
    if found is None:
        raise ValueError(f"No version found in {path}.")
    return found.group(1)


setup(
    name="advrush_tf",
    version=_version(),
    description="Search for adversarially robust neural architectures in TensorFlow",
    long_description=(_ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    project_urls={
        "Paper": _PAPER,
        "Official PyTorch code": "https://github.com/nutellamok/advrush",
    },
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # The launchers are no part of advrush_tf, whose import starts TensorFlow: they hold
    # back what that prints.
    packages=[*find_packages(include=["advrush_tf*"]), "advrush_tf_launch"],
    package_dir={"advrush_tf_launch": "launch"},
    package_data={
        "advrush_tf": ["py.typed"],
        "advrush_tf.data": ["digits/*/*"],
        "advrush_tf.runs": ["report.html.jinja"],
    },
    entry_points={
        "console_scripts": [
            f"advrush-{launcher} = advrush_tf_launch.console:program"
            for launcher in _LAUNCHERS
        ]
    },
    # The first with enum.StrEnum.
    python_requires=">=3.11",
    # Lower bounds are the oldest versions that the tests of files, models, search, fit
    # and drawings were run with, all at once (psutil's is older); constraints.txt has
    # the newest. Of TensorFlow, TensorBoard and tfds these are the same.
    # Where there is an upper bound, the next major version may take names away.
    install_requires=[
        "absl-py>=2.1",
        "attrs>=24.1",
        "h5py>=3.11",
        # tensorflow-datasets needs this one without declaring it.
        "importlib_resources>=6.4",
        "jinja2>=3.1,<4",
        "keras>=3.12,<4",
        "matplotlib>=3.9",
        "numpy>=2.0,<3",
        "psutil>=5.9",
        "scipy>=1.15,<2",
        "tensorboard>=2.21,<3",
        "tensorflow>=2.21,<3",
        "tensorflow-datasets>=4.9.10,<5",
        "tqdm>=4.66",
    ],
    extras_require={
        # The attacks fgsm, pgd, bim, mim, cw and spsa. Code of this very version is
        # mended; it brings packages that nothing else here needs.
        "cleverhans": ["cleverhans==4.0.0"],
        # Of cells. The first version whose wheels bring Graphviz with them. Keras'
        # plot_model takes the other, and Graphviz's program.
        "drawings": ["pydot>=4.0", "pygraphviz>=2.0"],
        "dev": ["mypy", "pytest", "pytest-xdist", "ruff", "scikit-learn"],
    },
)
