"""NORM-TUNING: all norms train, output norms included."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinNormTuning', stochastic_trunk=True)
