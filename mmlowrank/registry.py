"""Registries of mmlowrank: children of mmengine's, in scope 'mmlowrank'.

``locations`` lets mmengine import the right module the first time a config
says ``type='mmlowrank.X'``, so users need no ``custom_imports``.
"""

from typing import Any

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

# How a method meets a backbone, and where a backbone's parts are. mmengine has
# no such registries to be children of.
TUNERS = Registry('tuner', scope='mmlowrank', locations=['mmlowrank.tuners'])
FAMILIES = Registry(
    'family', scope='mmlowrank', locations=['mmlowrank.families']
)


def resolve(kind: Any, registry: Registry) -> Any:
    """Return the class or function that a config's ``type`` means.

    Args:
        kind: Its name, with or without a scope; the place where Python finds
            it, as mmengine writes down a pure-Python config; or, in such a
            config, the thing itself.
        registry: Where names are looked up.

    Returns:
        ``None`` if the name is unknown.
    """
    return registry.get(kind) if isinstance(kind, str) else kind


def type_name(kind: Any, registry: Registry) -> str:
    """Return the name that a config's ``type`` has in a registry of ours.

    Args:
        kind: As :func:`resolve` takes it.
        registry: One of the above.

    Returns:
        Of what is not ours, a name that none of ours has.
    """
    found = resolve(kind, registry)
    for name, known in registry.module_dict.items():
        if known is found:
            return name
    if isinstance(kind, str):
        return kind
    return f'{kind.__module__}.{kind.__qualname__}'
