"""LoRA: updates of rank 8 of the query and value projections."""

tuner = dict(type='LoRA', rank=8)
