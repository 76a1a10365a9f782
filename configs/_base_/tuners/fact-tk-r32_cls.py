"""FacT-TK: the updates of all blocks as one tensor of rank 32."""

tuner = dict(type='FacT', rank=32)
