"""VPT-Deep: 50 prompts in every block."""

# VPT's authors chose the number for each data set.
tuner = dict(type='VPT', tokens=50)
