"""The name and the version of the library."""

# Keras registers the library's classes under this name, which is in users' files.
PACKAGE = "advrush_tf"
__version__ = "0.1.0"
