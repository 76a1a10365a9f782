"""VPT-Shallow: 50 prompts in the first block."""

# VPT's authors chose the number for each data set.
tuner = dict(type='VPT', tokens=50, deep=False)
