"""Makes advrush_tf/data/digits: the UCI handwritten digits as a prepared tfds data set.

Run `python testdata/make_digits.py`; it needs scikit-learn, which ships the
images, and gives byte-identical files each time.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TRAIN_EXAMPLES = 1437
SEED = 0

_DESCRIPTION = """\
1,797 digits written by hand by 13 people, 8 by 8 pixels, grey: the test part of \
the UCI data set, as scikit-learn ships it. The original pixels count the ink in \
blocks of 4 by 4, from 0 to 16; here they are scaled to 0 to 255 and rounded. \
Our own split: 1,437 images to train and 360 to test, the same share of each digit \
in both. The writers are not known, so both parts hold images by the same people.\
"""
_CITATION = """\
@misc{alpaydin1998optical,
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}\
"""
_LICENSE = "Creative Commons Attribution 4.0 International (CC BY 4.0)"


class Digits(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Writes the digits in tfds' format, in the order of the split."""

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            description=_DESCRIPTION,
            citation=_CITATION,
            license=_LICENSE,
            homepage="https://doi.org/10.24432/C50P49",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        pixels, labels = load_digits(return_X_y=True)
        images = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
        train_images, test_images, train_labels, test_labels = train_test_split(
            images,
            labels,
            train_size=TRAIN_EXAMPLES,
            stratify=labels,
            random_state=SEED,
        )
        return {
            "train": self._generate_examples(train_images, train_labels),
            "test": self._generate_examples(test_images, test_labels),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


def make_digits(parent: Path) -> Path:
    """Writes the data set to `parent`/digits/1.0.0, in place of what is there.

    Args:
        parent: An existing folder.

    Returns:
        The folder of the files.
    """
    with tempfile.TemporaryDirectory() as scratch:
        Digits(data_dir=scratch).download_and_prepare()
        shutil.rmtree(parent / "digits", ignore_errors=True)
        shutil.copytree(Path(scratch, "digits"), parent / "digits")
    return parent / "digits" / "1.0.0"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parents[1] / "advrush_tf" / "data",
        help="folder in which digits/ is written",
    )
    print(make_digits(parser.parse_args().output))
