"""E3VA: a side highway of adapters of rank 8 (alpha)."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinE3VA', rank=8, stochastic_trunk=True)
