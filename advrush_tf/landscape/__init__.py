"""The loss as a function of the input: curvature, surfaces, architectures."""
