"""BITFIT: the biases train, relative-position tables included."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinBitFit', stochastic_trunk=True)
