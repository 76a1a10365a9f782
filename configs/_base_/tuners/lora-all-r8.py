"""LoRA: updates of rank 8 of every linear map, for decoders and encoders."""

tuner = dict(type='LoRA', rank=8, sites=('.*',))
