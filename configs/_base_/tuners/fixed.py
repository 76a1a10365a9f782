"""FIXED: the backbone is frozen, neck and head train."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinFixed', stochastic_trunk=True)
