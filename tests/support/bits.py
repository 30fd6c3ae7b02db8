"""Flipped bits of files that are read back: each is noticed, or changes nothing."""

import zipfile

import numpy as np

from advrush_tf.errors import one_line

# Of an array's member: what NumPy's format puts before the values.
_NUMPY_HEADER = 128


def header_bits(path):
    """The bits of a zip file that are no values: names, sizes, shapes, checksums."""
    outside = np.ones(path.stat().st_size, bool)
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            with file.open(member) as opened:
                start = opened._orig_compress_start
            outside[start + _NUMPY_HEADER : start + member.compress_size] = False
    return [8 * byte + bit for byte in np.flatnonzero(outside) for bit in range(8)]


def random_bits(path, count, seed=0):
    """So many bits of a file, drawn at random."""
    bits = np.random.default_rng(seed).integers(8 * path.stat().st_size, size=count)
    return bits.tolist()


def flip_faults(path, read, bits):
    """Yields for each flipped bit what was wrong, None if nothing was.

    Args:
        path: the file, which is whole again in the end.
        read: takes it and gives values that can be compared by `same`; a ValueError
            or LookupError is damage that it notices.
        bits: which are flipped, one at a time.
    """
    content, expected = path.read_bytes(), read(path)
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            fault = None if same(read(path), expected) else "other values"
        except (ValueError, LookupError):
            fault = None
        except Exception as error:
            fault = one_line(error)
        yield fault and f"bit {bit} of {path.name}: {fault}"
    path.write_bytes(content)


def same(one, other):
    """Whether two structures hold the same numbers, bit for bit."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        # One entry more than was written is harmless.
        return all(same(one[name], other[name]) for name in other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
