"""Converts official weights: python launch/convert.py --checkpoint=... --output=..."""

import sys

from absl import app, flags

from advrush_tf.conversion import Normalise, convert
from advrush_tf.errors import UserError
from advrush_tf.launching import parse_flags

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "File that the official PyTorch code saved.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "File to write, its name ends in .keras.", required=True
)
_GENOTYPE = flags.DEFINE_string(
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


def main(argv: list[str]) -> int:
    """Converts the checkpoint that the flags name."""
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument '{argv[1]}'; all options are flags.")
        convert(
            _CHECKPOINT.value,
            _OUTPUT.value,
            _GENOTYPE.value,
            _IMAGE_SIZE.value,
            _NORMALISE.value,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
