import pytest
import tensorflow as tf

from advrush_tf.data.reading import reading_examples
from advrush_tf.errors import UserError


def test_a_damaged_file_is_one_clear_line(tmp_path):
    path = str(tmp_path / "records")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"one")
    (tmp_path / "records").write_bytes((tmp_path / "records").read_bytes()[:-1])
    for read in (next, tf.function(lambda iterator: next(iterator))):
        message = r"\(truncated record at [^{}\[\]]*\); delete"
        with pytest.raises(UserError, match=message) as caught, reading_examples():
            read(iter(tf.data.TFRecordDataset(path)))
        assert "\n" not in str(caught.value)


def test_an_image_that_is_none_is_one_clear_line():
    images = tf.data.Dataset.from_tensors("no image").map(tf.io.decode_image)
    message = r"\(Unknown image file format"
    with pytest.raises(UserError, match=message) as caught, reading_examples():
        next(iter(images))
    assert "\n" not in str(caught.value)


def test_what_a_model_raises_is_left_alone():
    with pytest.raises(tf.errors.InvalidArgumentError), reading_examples():
        tf.reshape(tf.zeros(3), [2, 2])
