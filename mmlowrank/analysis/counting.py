"""Count parameters of a config without allocating its weights."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.overrides import TorchFunctionMode

from ..tuners import CHILD, Tuner, freeze_matching, tuners_of

# Factories that weights are made with. arange and linspace stay real:
# backbones read numbers out of them while they are built.
_FACTORIES = {
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.rand,
    torch.randn,
}


class _MetaWeights(TorchFunctionMode):
    """Send every weight made inside the context to the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def build_on_meta(cfg: Config) -> nn.Module:
    """Build ``cfg.model`` with weights that have shapes but no storage.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain, with ``default_scope``.
    """
    scope = cfg.get('default_scope', 'mmengine')
    with DefaultScope.overwrite_default_scope(scope), _MetaWeights():
        return MODELS.build(cfg.model)


def count_parameters(cfg: Config) -> dict[str, Any]:
    """Count the parameters of a config's model.

    Returns:
        ``backbone_trainable``: parameters of the backbone that train;
        ``backbone_added``: those the tuner adds to the stock backbone;
        ``backbone_stock``: those of the stock backbone;
        ``model_trainable`` and ``model_total``: of the whole model. What
        ``optim_wrapper.freeze`` names is not counted as trainable.
        ``parts``: name of each direct child that has parameters -> how many.
        ``tuners``: path of each part with a tuner -> the tuner's ``title``,
        and how many parameters of the part are ``trainable`` and ``stock``.

    Raises:
        ValueError: If the model has no backbone.
    """
    model = build_on_meta(cfg)
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise ValueError(
            f'{type(model).__name__} has no attribute "backbone", so there '
            'is no stock backbone to compare with'
        )
    freeze_matching(model, cfg.get('optim_wrapper', {}).get('freeze') or [])
    added = [
        tensor
        for tuner in tuners_of(backbone).values()
        for tensor in tuner.added().values()
        if isinstance(tensor, nn.Parameter)
    ]
    parts = {
        name: _size(child.parameters())
        for name, child in model.named_children()
    }
    return {
        'backbone_trainable': _size(backbone.parameters(), trainable=True),
        'backbone_added': _size(added),
        'backbone_stock': _size(backbone.parameters()) - _size(added),
        'model_trainable': _size(model.parameters(), trainable=True),
        'model_total': _size(model.parameters()),
        'parts': {name: size for name, size in parts.items() if size},
        'tuners': {
            path.removesuffix(CHILD).removesuffix('.'): _of_tuner(tuner)
            for path, tuner in tuners_of(model).items()
        },
    }


def _of_tuner(tuner: Tuner) -> dict[str, Any]:
    parameters = [*tuner.backbone.parameters()]
    added = sum(p.numel() for p in tuner.parameters())
    return dict(
        title=tuner.title,
        trainable=_size(parameters, trainable=True),
        stock=_size(parameters) - added,
    )


def _size(parameters: Any, trainable: bool = False) -> int:
    return sum(
        p.numel() for p in parameters if p.requires_grad or not trainable
    )
