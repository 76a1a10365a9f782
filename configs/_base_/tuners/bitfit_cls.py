"""Bias: the biases train, relative-position tables included."""

tuner = dict(type='BitFit')
