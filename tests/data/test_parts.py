import numpy as np
import pytest

from advrush_tf.data.parts import check_batches, check_numbers, check_part, cut


@pytest.mark.parametrize(
    ("batch_size", "count", "expected"),
    [
        (12, 1, [(0, 12)]),
        (12, 3, [(0, 4), (4, 8), (8, 12)]),
        (5, 4, [(0, 2), (2, 4), (4, 5), (5, 5)]),
        (2, 3, [(0, 1), (1, 2), (2, 2)]),
    ],
)
def test_cuts_are_contiguous_and_rounded_up(batch_size, count, expected):
    assert [cut(batch_size, (index, count)) for index in range(count)] == expected


def test_many_batches_are_cut_at_once():
    low, high = cut(np.array([8, 5]), (1, 2))
    np.testing.assert_array_equal([low, high], [[4, 3], [8, 5]])


def test_what_cannot_be_made_is_refused():
    check_batches(12, (2, 3), 4)
    for part in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=r"index from 0 to count - 1, not \("):
            check_part(part)
    with pytest.raises(ValueError, match="12 cannot be cut into 5 equal parts"):
        check_batches(12, (0, 5))
    with pytest.raises(ValueError, match=r"at least 1 .* not 0 and 0"):
        check_numbers(0)
    with pytest.raises(ValueError, match="not 4 and -1"):
        check_batches(4, (0, 1), -1)
