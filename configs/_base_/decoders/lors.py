"""LORS in all six stages: 2 groups of 64 points, as the paper's default."""

lors = dict(
    groups=2,
    in_points=64,
    lors_adaptive=dict(rank=16, terms=[1, 1, 2, 2, 3, 3]),
    lors_static=dict(rank=8),
)
