"""E3VA+: a side highway of adapters of rank 16 (alpha)."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinE3VA', rank=16, stochastic_trunk=True)
