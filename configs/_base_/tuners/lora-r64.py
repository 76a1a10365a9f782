"""LoRA: updates of rank 64 of the query and value projections."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinLoRA', rank=64, stochastic_trunk=True)
