"""Attacks on Keras classifiers, and evaluations of robustness made of them."""
