"""What every classifier here starts with: mmpretrain."""

default_scope = 'mmpretrain'
visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
