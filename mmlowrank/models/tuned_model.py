"""Builder of models of which several parts are tuned."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from mmengine.model import initialize
from mmengine.registry import DefaultScope
from torch import nn

from ..registry import MODELS, type_name
from ..tuners import tuners_of
from ..tuners.written import init_cfgs
from .stock_model import build_model, model_config
from .tuned_backbone import attach

_BACKBONE = 'backbone'


@MODELS.register_module()
def TunedModel(
    model: str | dict,
    tuners: Mapping[str, dict | Sequence[dict]],
    **kwargs: Any,
) -> nn.Module:
    """Build a stock model and attach tuners to parts of it.

    What is returned is the detector, segmentor or classifier of the
    framework, with its own class and state-dict keys. In a config whose base
    is a stock one::

        model = dict(
            type='mmlowrank.TunedModel',
            model='DINO',
            tuners={
                'backbone': dict(type='LoRand', branches=2, rank=8),
                'decoder': dict(type='LoRA', rank=8, sites=['.*attn']),
            },
            init_cfg=dict(type='Pretrained', checkpoint='dino.pth'),
        )

    A part trains what its tuner trains, and is frozen besides; parts without
    a tuner train as a whole. An ``init_cfg`` of the whole model is loaded
    after the stock ``init_weights``, which in a DETR draws encoder and
    decoder anew at its end.

    Args:
        model: Type of the stock model, or its config.
        tuners: Path of a part, e.g. ``'bbox_head'`` or
            ``'decode_head.transformer_decoder'`` -> config of its tuner, or
            of several. What :func:`TunedBackbone` takes besides
            (``trainable``, ``stochastic_trunk``, ``memory``,
            ``attention``) may stand in it.
        **kwargs: Of the stock model.

    Raises:
        KeyError: If the model or a tuner is unknown, or there is no such
            part.
        TypeError: If a part lacks what its tuner needs.
        ValueError: If ``tuners`` is empty or no table, or one part lies in
            another.
    """
    _check_paths(tuners)
    config, tuners = model_config(model, **kwargs), dict(tuners)
    scope = DefaultScope.get_current_instance()
    build_again = partial(_build_part, config, scope and scope.scope_name)
    config, backbone = dict(config), config.get(_BACKBONE)
    if _BACKBONE in tuners and isinstance(backbone, dict):
        kind = type_name(backbone['type'], MODELS)
        if kind in MODELS.module_dict:
            raise ValueError(
                f"the backbone is a '{kind}', which has its own tuner: leave "
                "'backbone' out of tuners, or use the stock type"
            )
        # Which reads files of all layouts.
        config[_BACKBONE] = dict(
            type='mmlowrank.TunedBackbone',
            backbone=backbone,
            tuner=tuners.pop(_BACKBONE),
        )
    built = build_model(config)
    for path, tuner in tuners.items():
        attach(tuner, _part(built, path), partial(build_again, path))
    cfgs = init_cfgs(built)
    pretrained = [cfg for cfg in cfgs if cfg.get('checkpoint')]
    built.init_cfg = [cfg for cfg in cfgs if not cfg.get('checkpoint')] or None
    for path, tuner in tuners_of(built).items():
        for cfg in pretrained:
            whole = cfg.get('prefix', '').removesuffix('.')
            prefix = f'{whole}.{path}'.removeprefix('.').removesuffix('tuner')
            tuner.part_of = cfg['checkpoint'], prefix
    # On the instance, because the class must stay the stock one.
    built.init_weights = partial(_init_weights, built, pretrained)
    return built


def _init_weights(model: nn.Module, pretrained: list[dict]) -> None:
    """Run the stock ``init_weights``, out of reach of the tuners.

    Stock models draw all parameters below an encoder or decoder.
    """
    tuners = tuners_of(model)
    with ExitStack() as stack:
        for tuner in tuners.values():
            stack.enter_context(tuner.aside())
        type(model).init_weights(model)
    if pretrained:
        initialize(model, pretrained)
    for tuner in tuners.values():
        for method in tuner.methods:
            method.follow_stock()
        if tuner.source is not None:
            tuner.report_unwritten()


def _check_paths(tuners: Mapping[str, Any]) -> None:
    configs = isinstance(tuners, Mapping) and all(
        isinstance(tuner, dict | list | tuple) for tuner in tuners.values()
    )
    if not tuners or not configs:
        raise ValueError(
            f'tuners={tuners!r} is no table of parts of the model and configs '
            "of their tuners, e.g. tuners={'backbone': dict(type='LoRA')}"
        )
    for path in tuners:
        inside = [other for other in tuners if other.startswith(f'{path}.')]
        if inside:
            raise ValueError(
                f"tuners has '{path}' and '{inside[0]}', which lies in it: a "
                'part has one tuner (sites and layers say where it acts), or '
                'a list of several'
            )


def _part(model: nn.Module, path: str) -> nn.Module:
    parts = dict(model.named_modules())
    if not path or path not in parts:
        children = ', '.join(name for name, _ in model.named_children())
        raise KeyError(
            f"tuners names '{path}', but {type(model).__name__} has no such "
            f'part. It has {children}, and paths in these'
        )
    return parts[path]


def _build_part(config: dict, scope: str | None, path: str) -> nn.Module:
    with DefaultScope.overwrite_default_scope(scope):
        return build_model(config).get_submodule(path)
