"""Builders of tuned backbones.

A tuned backbone is the stock object of the framework that builds, with a
tuner attached: the builders below return an mmdet, mmseg or mmpretrain
backbone, not a class of ours. They are functions, so that isinstance checks,
state-dict keys and every method of the stock class stay as they are.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch import nn

from ..checkpoint import swin
from ..checkpoint.adapter_checks import accept_adapters
from ..registry import MODELS, TUNERS, resolve, type_name
from ..tuners import CHILD, Composition, Tuner
from .stack_shared_vit import stock_vit_config


@MODELS.register_module()
def TunedBackbone(
    backbone: dict,
    tuner: dict | Sequence[dict],
    stochastic_trunk: bool = False,
    memory: str = 'lean',
    attention: str = 'auto',
    trainable: Sequence[str] = (),
    init_cfg: dict | list[dict] | None = None,
    pretrained: str | None = None,
    convert_weights: bool = False,
) -> nn.Module:
    """Build a stock backbone and attach a tuner to it.

    The general form: any backbone, any tuner that fits it (``Full``,
    ``Fixed``, ``BitFit`` and ``NormTuning`` fit every one).

    Args:
        backbone: Config of a backbone. Its type is looked up in the scope
            that is building: ``SwinTransformer`` is mmdet's inside mmdet.
        tuner: Config of a tuner, e.g. ``dict(type='LoRand', rank=8)``, or a
            list of several. The next four may also stand in it.
        stochastic_trunk: Keep dropout and stochastic depth of the frozen
            trunk active in training. Off by default: frozen parts compute
            the same function in training and in evaluation.
        memory: ``'lean'`` rebuilds intermediate results of frozen blocks in
            the backward pass, ``'stock'`` keeps them.
        attention: How the windows of a lean Swin attend: ``'sdpa'`` with
            PyTorch's ``scaled_dot_product_attention``, ``'products'`` with
            the products of the stock module. ``'auto'`` is the first on a
            CPU, where it was measured to be faster, and the second on a
            GPU, on which it was never timed.
        trainable: Stock tensors that train besides what the tuner trains:
            regular expressions that match their names in the backbone from
            the start, e.g. ``['patch_embed', r'norm\\d', 'stages.3']``. What
            they are is logged.
        init_cfg: Set here or in ``backbone``; means the same.
        pretrained: A checkpoint; short for an ``init_cfg`` of type
            ``'Pretrained'``. mmdet's and mmseg's ``pretrained`` of a whole
            model arrives here.
        convert_weights: For a Swin it is accepted and means nothing: a file
            of any known layout is read, see :mod:`..checkpoint.swin`. Other
            stock backbones may know it.

    Raises:
        KeyError: If the backbone or the tuner is unknown.
        TypeError: If the backbone lacks what the tuner needs.
        ValueError: If ``memory`` or ``attention`` is unknown, weights are
            named twice, a pattern matches nothing, or tuners do not go
            together.
    """
    backbone = dict(backbone)
    trunk = dict(
        stochastic_trunk=stochastic_trunk,
        memory=memory,
        attention=attention,
        trainable=trainable,
    )
    if init_cfg is not None:
        backbone['init_cfg'] = init_cfg
    # Of a TIMMBackbone it is a switch, and stays there.
    if not isinstance(backbone.get('pretrained'), bool):
        pretrained = backbone.pop('pretrained', None) or pretrained
    if pretrained is not None:
        if backbone.get('init_cfg') is not None:
            raise ValueError(
                f"pretrained='{pretrained}' and init_cfg name weights twice: "
                'remove one of them'
            )
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=pretrained)
    if convert_weights:
        backbone['convert_weights'] = True
    stock = build_stock(backbone)
    # The class, because another scope may be building by then.
    again = partial(build_stock, dict(backbone, type=type(stock)))
    return attach(tuner, stock, again, **trunk)


def attach(
    tuner: dict | Sequence[dict],
    stock: nn.Module,
    build_again: Callable[[], nn.Module],
    **trunk: Any,
) -> nn.Module:
    """Attach what a config describes to a part of a model, and return it.

    Args:
        tuner: Config of a tuner, or of several.
        stock: The part.
        build_again: Builds it anew.
        trunk: What :class:`.Tuner` takes besides; may also stand in
            ``tuner``.
    """
    configs = [tuner] if isinstance(tuner, dict) else tuner
    configs = [dict(config) for config in configs]
    said: dict[str, Any] = {}
    asked = []
    for config in (trunk, *configs):
        patterns = config.pop('trainable', ())
        if isinstance(patterns, str):
            raise ValueError(
                'trainable is a list of patterns: write '
                f'trainable=[{patterns!r}]'
            )
        asked += patterns
    for config in configs:
        for key in OF_TRUNK & config.keys():
            value = config.pop(key)
            if said.setdefault(key, value) != value:
                raise ValueError(
                    f'{key} is of the trunk, and two tuners have it as '
                    f'{said[key]!r} and {value!r}: say it once'
                )
    trunk.update(said, trainable=asked)
    tuned = _build_tuner(configs).attach(stock, **trunk)
    getattr(tuned, CHILD).build_stock = build_again
    return accept_adapters(tuned)


def build_stock(backbone: dict) -> nn.Module:
    """Build a stock backbone in the scope that is building.

    Args:
        backbone: Its config. A Swin's checkpoint may have the layout of
            OpenMMLab, Microsoft or timm; ``convert_weights`` is accepted
            and means nothing.
    """
    # A ConfigDict even where Python code passed a dict: stock backbones read
    # ``init_cfg.checkpoint``.
    stock = ROOT_MODELS.build(ConfigDict(_prepared(dict(backbone))))
    if swin.is_swin(type(stock)):
        swin.prepare(stock)
    return stock


def stock_config(backbone: dict) -> dict:
    """Return the config of the stock backbone inside a tuned one.

    Without its checkpoint: the weights are those of the tuned model.

    Args:
        backbone: Config of a ``TunedBackbone``, a named form, or a
            ``StackSharedViT``.

    Raises:
        ValueError: If it is of another type.
    """
    kind = type_name(backbone['type'], MODELS)
    if kind == 'TunedBackbone':
        stock = dict(backbone['backbone'])
    elif kind in _NAMED_FORMS:
        _, _, stock = _split(backbone, _NAMED_FORMS[kind])
        stock['type'] = 'SwinTransformer'
    elif kind == 'StackSharedViT':
        stock = stock_vit_config(backbone)
    else:
        raise ValueError(
            f"'{kind}' is not a tuned backbone with one stock backbone "
            'inside. Known: TunedBackbone, StackSharedViT, '
            + ', '.join(sorted(_NAMED_FORMS))
        )
    for key in ('init_cfg', 'pretrained', 'convert_weights'):
        stock.pop(key, None)
    return stock


def _prepared(backbone: dict) -> dict:
    """Take out ``convert_weights`` of a Swin, which reads any layout."""
    stock_class = _stock_class(backbone['type'])
    if stock_class is None and DefaultScope.get_current_instance() is None:
        raise KeyError(
            f"'{backbone['type']}' is not a backbone of mmengine, and no "
            'default scope says which framework is meant. Set '
            "default_scope='mmdet' (or 'mmseg', 'mmpretrain') in the config, "
            'or call mmengine.registry.init_default_scope first'
        )
    # A class that is not found is left to mmengine, whose error names the
    # registry it searched.
    if swin.is_swin(stock_class):
        backbone.pop('convert_weights', None)
    return backbone


def _stock_class(kind: Any) -> Any:
    with ROOT_MODELS.switch_scope_and_registry(None) as registry:
        return resolve(kind, registry)


def _tuner_class(kind: Any) -> type[Tuner]:
    found = resolve(kind, TUNERS)
    if not (isinstance(found, type) and issubclass(found, Tuner)):
        known = ', '.join(sorted(TUNERS.module_dict))
        raise KeyError(
            f"'{type_name(kind, TUNERS)}' is not a tuner of mmlowrank; "
            f'known: {known}'
        )
    return found


def tuner_name(kind: Any) -> str:
    """Return the name of a tuner.

    Args:
        kind: Its type in a config, or that of a named form of it:
            ``'mmlowrank.SwinLoRand'`` is ``'LoRand'``.

    Raises:
        KeyError: If it is neither.
    """
    kind = _NAMED_FORMS.get(type_name(kind, MODELS), kind)
    return type_name(_tuner_class(kind), TUNERS)


def _build_tuner(configs: Sequence[dict]) -> Tuner:
    methods = [_build_method(config) for config in configs]
    if not methods:
        raise ValueError("tuner=[] names none: use dict(type='Fixed')")
    return methods[0] if len(methods) == 1 else Composition(methods)


def _build_method(tuner: dict) -> Tuner:
    if 'type' not in tuner:
        raise KeyError(f"tuner={tuner} has no type: add one, e.g. type='LoRA'")
    found = _tuner_class(tuner['type'])
    _refuse(_unknown(tuner.keys() - {'type'}, found), found)
    built = TUNERS.build(dict(tuner, _scope_='mmlowrank'))
    built.arguments = {
        name: tuner.get(name, default)
        for name, default in built.defaults().items()
    }
    return built


def arguments_of(tuner_type: str) -> set[str]:
    """Return the names of a tuner's arguments."""
    return set(inspect.signature(TUNERS.get(tuner_type)).parameters)


def _unknown(asked: Iterable[str], kind: type) -> list[str]:
    """Return the names that are no arguments of a class."""
    parameters = inspect.signature(kind).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    return sorted({*asked} - parameters.keys())


def _refuse(unknown: list[str], tuner: type[Tuner]) -> None:
    """Refuse arguments that neither a tuner nor its backbone has.

    Raises:
        TypeError: Naming one, and those that the tuner has.
    """
    if unknown:
        known = ', '.join(sorted(inspect.signature(tuner).parameters))
        raise TypeError(
            f'The tuner {type_name(tuner, TUNERS)} has no argument '
            f"'{unknown[0]}'; it has {known or 'none'}"
        )


# What describes the trunk and its weights, whatever the method.
GENERAL = set(inspect.signature(TunedBackbone).parameters)
# Of these, what may stand in the config of a tuner too.
OF_TRUNK = set(inspect.signature(Tuner.attach).parameters) - {
    'self',
    'backbone',
}


def _split(kwargs: dict, tuner_type: str) -> tuple[dict, dict, dict]:
    """Return the arguments of tuner, :func:`TunedBackbone` and backbone."""
    tuner, general, stock = {}, {}, {}
    known = arguments_of(tuner_type)
    for key, value in kwargs.items():
        part = tuner if key in known else general
        (part if key in known | GENERAL else stock)[key] = value
    return tuner, general, stock


# Name of a named form -> type of its tuner.
_NAMED_FORMS: dict[str, str] = {}


def _named_form(name: str, tuner_type: str) -> Callable[..., nn.Module]:
    """Make and register ``name``: a stock Swin with one kind of tuner.

    The tuner's own arguments and stock Swin arguments stand side by side,
    so a config changes the backbone's type and adds what the method needs.
    """
    _NAMED_FORMS[name] = tuner_type
    tuner_args = arguments_of(tuner_type)

    def build(**kwargs: Any) -> nn.Module:
        tuner, general, stock = _split(kwargs, tuner_type)
        stock_class = _stock_class('SwinTransformer')
        if stock_class is not None:
            unknown = _unknown(stock, stock_class)
            _refuse(unknown, _tuner_class(tuner_type))
        return TunedBackbone(
            backbone=dict(type='SwinTransformer', **stock),
            tuner=dict(type=tuner_type, **tuner),
            **general,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = (
        f'Build the stock SwinTransformer of the building framework with '
        f'the tuner :class:`{tuner_type}`.\n\n'
        f'Takes the arguments of the tuner '
        f'({", ".join(sorted(tuner_args)) or "none"}), of the stock Swin, '
        'and the others of :func:`TunedBackbone`.'
    )
    return MODELS.register_module(name=name, module=build)


SwinFull = _named_form('SwinFull', 'Full')
SwinFixed = _named_form('SwinFixed', 'Fixed')
SwinBitFit = _named_form('SwinBitFit', 'BitFit')
SwinNormTuning = _named_form('SwinNormTuning', 'NormTuning')
SwinPartial = _named_form('SwinPartial', 'Partial')
SwinAdapter = _named_form('SwinAdapter', 'Adapter')
SwinAdaptFormer = _named_form('SwinAdaptFormer', 'AdaptFormer')
SwinLoRA = _named_form('SwinLoRA', 'LoRA')
SwinLoRand = _named_form('SwinLoRand', 'LoRand')
SwinMona = _named_form('SwinMona', 'Mona')
SwinCoLin = _named_form('SwinCoLin', 'CoLin')
SwinE3VA = _named_form('SwinE3VA', 'E3VA')
SwinRLRR = _named_form('SwinRLRR', 'RLRR')
SwinSSF = _named_form('SwinSSF', 'SSF')
SwinARC = _named_form('SwinARC', 'ARC')
