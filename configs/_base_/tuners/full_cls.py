"""Full fine-tuning: every backbone parameter trains."""

tuner = dict(type='Full')
