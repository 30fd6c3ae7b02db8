import pytest

from advrush_tf.errors import UserError
from advrush_tf.runs.landscape_settings import LandscapeSettings


def test_the_default_epsilon_is_the_usual_one():
    assert LandscapeSettings(model=("m.keras",)).epsilon == 8 / 255


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ()}, "--model is"),
        ({"model": ("m.keras", "m.keras")}, "different models"),
        ({"test_images": 0}, "--test_images is 0"),
        ({"probe_length": 0.0}, "--probe_length is 0.0"),
        ({"probe_length": float("nan")}, "--probe_length is nan"),
        ({"top": 21}, "--lanczos_steps is 20; it must be 21"),
        ({"surface_points": 20}, "--surface_points is 20"),
        ({"surface_points": 1}, "--surface_points is 1"),
        ({"cut_points": 30}, "--cut_points is 30"),
        ({"sample_genotypes": -1}, "--sample_genotypes is -1"),
        ({"sample_genotypes": 3}, "--sample_genotypes is 3; it must be 0, or 4"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_what_is_out_of_range_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        LandscapeSettings(**{"model": ("m.keras",), **changes})
