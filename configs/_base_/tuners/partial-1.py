"""PARTIAL-1: the last block trains."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinPartial', layers=(-1,), stochastic_trunk=True)
