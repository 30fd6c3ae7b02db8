"""Prepares TensorFlow before any test imports it."""

from advrush_tf import environment as environment


def pytest_configure():
    """Divides the processor, for the tests of strategies."""
    # Not above: the environment must be set before TensorFlow is imported.
    import replicas

    replicas.divide_processor()
