"""ImageModel: the base of all models of images in [0, 1]."""

from typing import Any

import keras

from advrush_tf.inputs import check_images
from advrush_tf.nn.constants import inlined


class ImageModel(keras.Model):
    """A Keras model of images in [0, 1], whose Keras methods refuse all others."""

    predict_function: Any

    @property
    def num_classes(self) -> int | None:
        """Number of classes, None while it is not known."""
        return None

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of the logits, for `summary`."""
        return None, self.num_classes

    def summary(self, *args, **kwargs):
        """Prints the layers, as in Keras, with their shapes and nested ones too."""
        if shape := getattr(self, "image_shape", None):
            # A call without values, in which blocks note their shapes.
            self.compute_output_spec(keras.KerasTensor((None, *shape)))
        kwargs.setdefault("expand_nested", True)
        super().summary(*args, **kwargs)

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Exports the model as in Keras, also before its first call."""
        if input_signature is None and (shape := getattr(self, "image_shape", None)):
            images = keras.InputSpec(shape=(None, *shape), dtype=self.variable_dtype)
            input_signature = [images]
        with inlined():
            super().export(filepath, format, verbose, input_signature, **kwargs)

    def train_step(self, data):
        check_images(keras.utils.unpack_x_y_sample_weight(data)[0])
        return super().train_step(data)

    def test_step(self, data):
        check_images(keras.utils.unpack_x_y_sample_weight(data)[0])
        return super().test_step(data)

    def make_predict_function(self, force=False):
        if self.predict_function is None or force:
            super().make_predict_function(force=True)
            predict = self.predict_function

            def checked(batches):
                for batch in batches:
                    self.check_images(keras.utils.unpack_x_y_sample_weight(batch)[0])
                return predict(batches)

            self.predict_function = checked
        return self.predict_function

    def check_images(self, x: Any) -> None:
        """Checks a batch, of one replica or of several, see `inputs.check_images`."""
        for piece in self.distribute_strategy.experimental_local_results(x):
            check_images(piece)
