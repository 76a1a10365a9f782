"""Registries of mmlowrank: children of mmengine's, in scope 'mmlowrank'.

``locations`` lets mmengine import the right module the first time a config
says ``type='mmlowrank.X'``, so users need no ``custom_imports``.
"""

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry


def _child(
    name: str, parent: str, locations: list[str]
) -> mmengine_registry.Registry:
    return Registry(
        name,
        parent=getattr(mmengine_registry, parent),
        scope='mmlowrank',
        locations=locations,
    )


# Backbones, and whole models such as AdaMixer.
MODELS = _child('model', 'MODELS', ['mmlowrank.models'])
MODEL_WRAPPERS = _child(
    'model_wrapper', 'MODEL_WRAPPERS', ['mmlowrank.engine']
)
HOOKS = _child('hook', 'HOOKS', ['mmlowrank.engine'])
PARAM_SCHEDULERS = _child(
    'parameter scheduler', 'PARAM_SCHEDULERS', ['mmlowrank.engine']
)
# These two need mmpretrain, so the package mmlowrank.datasets does not
# import them; the first config that names one does.
DATASETS = _child(
    'dataset',
    'DATASETS',
    ['mmlowrank.datasets.vtab', 'mmlowrank.datasets.fgvc'],
)
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    ['mmlowrank.engine'],
)

# How a method meets a backbone. mmengine has no such registry to be child of.
TUNERS = Registry('tuner', scope='mmlowrank', locations=['mmlowrank.tuners'])
