"""Makes small data sets with the structure of tfds' ImageNet, for tests.

Run `python testdata/make_imagenet_like.py --output=FOLDER`: it writes imagenet2012, of
JPEGs in many sizes, and imagenet_resized/64x64, each in several files. The images are
coloured gratings, and only their form is ImageNet's.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

TRAIN_EXAMPLES, VALIDATION_EXAMPLES, TEST_EXAMPLES = 101, 37, 5
SHARDS = 5
NUM_CLASSES = 1000
_LABEL = tfds.features.ClassLabel(num_classes=NUM_CLASSES)


class ImagenetLike(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """JPEGs in many sizes; the test split has no labels, as the true one."""

    name = "imagenet2012"
    VERSION = tfds.core.Version("5.1.0")
    FEATURES = {  # noqa: RUF012
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": _LABEL,
        "file_name": tfds.features.Text(),
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.FEATURES),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {
            "train": self._generate_examples(0, TRAIN_EXAMPLES),
            "validation": self._generate_examples(1, VALIDATION_EXAMPLES),
            "test": self._generate_examples(2, TEST_EXAMPLES),
        }

    def _generate_examples(self, seed: int, count: int) -> Iterator[tuple[str, dict]]:
        generator = np.random.default_rng(seed)
        for index in range(count):
            # No two images of a split have the same label.
            label = -1 if seed == 2 else index
            height, width = generator.integers(40, 91, 2)
            name = f"{seed}_{index}.JPEG"
            image = grating(label, height, width)
            yield name, {"image": image, "label": label, "file_name": name}


class ImagenetResizedLike(ImagenetLike, skip_registration=True):  # type: ignore[call-arg]
    """PNGs of 64 by 64 pixels."""

    name = "imagenet_resized"
    VERSION = tfds.core.Version("0.1.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="64x64", version=VERSION)]  # noqa: RUF012
    FEATURES = {  # noqa: RUF012
        "image": tfds.features.Image(shape=(64, 64, 3)),
        "label": _LABEL,
    }

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {
            "train": self._generate_examples(0, TRAIN_EXAMPLES),
            "validation": self._generate_examples(1, VALIDATION_EXAMPLES),
        }

    def _generate_examples(self, seed: int, count: int) -> Iterator[tuple[str, dict]]:
        for index in range(count):
            yield f"{seed}_{index}", {"image": grating(index, 64, 64), "label": index}


def grating(label: int, height: int, width: int) -> np.ndarray:
    """A pattern that depends on the label, uint8 (height, width, 3)."""
    rows, columns = np.mgrid[:height, :width]
    phases = np.stack(
        [
            rows * (1 + label % 5) / height,
            columns * (1 + label % 7) / width,
            (rows + columns) * (1 + label % 3) / (height + width),
        ],
        -1,
    )
    return np.rint(127.5 * (1 + np.sin(2 * np.pi * (phases + label / 10)))).astype(
        np.uint8
    )


def make_imagenet_like(parent: Path, shards: int = SHARDS) -> tuple[Path, Path]:
    """Writes both data sets.

    Args:
        parent: An existing folder.
        shards: Number of files of each split.

    Returns:
        The folders of imagenet2012 and of imagenet_resized/64x64.
    """
    config = tfds.download.DownloadConfig(num_shards=shards)
    for builder in (ImagenetLike, ImagenetResizedLike):
        builder(data_dir=parent).download_and_prepare(download_config=config)
    return parent / "imagenet2012", parent / "imagenet_resized" / "64x64"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="an existing folder to write to"
    )
    for folder in make_imagenet_like(parser.parse_args().output):
        print(folder)
