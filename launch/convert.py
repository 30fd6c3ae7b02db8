"""Converts official weights: python launch/convert.py --checkpoint=... --output=..."""

from absl import flags

import console

with console.starting():
    from advrush_tf.runs.convert import Normalise, convert
    from advrush_tf.runs.flags import define_path, run

_CHECKPOINT = define_path(
    "checkpoint", None, "File that the official PyTorch code saved.", required=True
)
_OUTPUT = define_path(
    "output", None, "File to write, its name ends in .keras.", required=True
)
_GENOTYPE = define_path(
    "genotype",
    None,
    "Name of a published genotype or path of a genotype.json; not for a supernet.",
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Height and width of the images; by default 32, or 224 with the ImageNet stem.",
)
_NORMALISE = flags.DEFINE_enum_class(
    "normalise",
    Normalise.OFFICIAL,
    Normalise,
    "How the model normalises images in [0, 1]; official: a supernet as for CIFAR-10, "
    "a network with the CIFAR stem not, one with the ImageNet stem as for ImageNet.",
)


def main() -> None:
    """Converts the checkpoint that the flags name."""
    convert(
        _CHECKPOINT.value,
        _OUTPUT.value,
        _GENOTYPE.value,
        _IMAGE_SIZE.value,
        _NORMALISE.value,
    )


if __name__ == "__main__":
    run(main, console.held_back)
