"""E3VA++: a side highway of adapters of rank 32 (alpha)."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinE3VA', rank=32, stochastic_trunk=True)
