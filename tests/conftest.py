"""Imports the package before any test imports TensorFlow: see its `environment`."""

from advrush_tf import environment as environment
