"""``--tuner``: a stock config of mmdet, mmseg or mmpretrain, tuned.

What a user would change by hand, the README's diff, in a config that was
read: the backbone, the constructor of the optimizer's groups, and a hook.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction

from .. import config_packages
from ..models.tuned_backbone import (
    GENERAL,
    OF_TRUNK,
    arguments_of,
    tuner_name,
)
from ..registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, type_name
from .optim_constructor import KNOWN

# As in a clone, so in a wheel.
_FOLDER = Path(__file__).parents[1] / '.mim' / 'configs' / '_base_' / 'tuners'
_OURS = 'TunerOptimWrapperConstructor'
_BACKBONE = 'backbone'
_OF_PART = re.compile(r'([A-Za-z_][\w.]*)=(.+)')
# Where models that wrap another have it: SoftTeacher, ByteTrack, TTA.
_INSIDE = ('detector', 'segmentor', 'module')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options`` and ``--tuner``, which :func:`read` takes."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: key=value, e.g. '
        'model.backbone.rank=16 train_dataloader.batch_size=4; with --tuner, '
        'tuner.rank=16 is for the tuner (of several, tuner.0.rank=16 for the '
        'first) and model.backbone the stock one',
    )
    parser.add_argument(
        '--tuner',
        action='append',
        metavar='[PART=]NAME',
        help='tune the backbone of a stock config, or another part of the '
        'model: the name of a file in configs/_base_/tuners, e.g. '
        'lorand-b2r8 or decoder=lora-r8, or a path to one of yours. May be '
        'given several times',
    )


def read(
    config: str,
    options: dict[str, Any] | None = None,
    tuner: str | Sequence[str] | None = None,
) -> Config:
    """Read a config, apply options, and tune it where a tuner is named.

    Args:
        config: File, or ``package::path``.
        options: Of ``--cfg-options``. What starts with ``tuner.`` changes
            the tuner, the rest the config before it is tuned.
        tuner: Of ``--tuner``, one or several.

    Raises:
        FileNotFoundError: If the config does not exist.
        SystemExit: With a sentence, if it cannot be tuned so.
    """
    path = config_packages.find(config)
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'There is no config {config}; see the folder configs/'
        )
    cfg = Config.fromfile(path)
    options = dict(options or {})
    named = [tuner] if isinstance(tuner, str) else [*(tuner or ())]
    if not named and 'tuner' in cfg:
        # One of ours, as its base made it.
        cfg.merge_from_dict(options)
        return cfg
    own = {key: options.pop(key) for key in [*options] if _is_tuners(key)}
    if 'tuner' in own:
        raise SystemExit(
            '--cfg-options tuner=... is not one argument of the tuner: name '
            'one, e.g. tuner.rank=16, and the tuner with --tuner'
        )
    if not named and own:
        raise SystemExit(
            f'--cfg-options {min(own)} changes what --tuner names: add '
            '--tuner NAME'
        )
    cfg.merge_from_dict(options)
    if named:
        tuners: dict[str, list[dict]] = {}
        for (part, name), given in zip(
            map(split_part, named), _divide(own, len(named)), strict=True
        ):
            tuners.setdefault(part, []).append(_read_tuner(name, given))
        tune(cfg, tuners)
    return cfg


def split_part(tuner: str) -> tuple[str, str]:
    """Return the part of the model and the name of a ``--tuner``."""
    match = _OF_PART.fullmatch(tuner)
    return (match[1], match[2]) if match else (_BACKBONE, tuner)


def _divide(options: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the options of each tuner, all as ``tuner.argument``."""
    divided: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, value in options.items():
        _, first, *rest = key.split('.')
        numbered = first.isdecimal()
        index, argument = (int(first), rest) if numbered else (0, [first])
        argument += [] if numbered else rest
        if index >= count or not argument or (count > 1 and not numbered):
            raise SystemExit(
                f'--cfg-options {key}: --tuner names {count} of them; say '
                'which by its number from 0, and the argument, e.g. '
                'tuner.0.rank=16'
            )
        divided[index]['.'.join(['tuner', *argument])] = value
    return divided


def tune(cfg: Config, tuners: Mapping[str, Sequence[dict]]) -> None:
    """Change a stock config into a tuned one, in place.

    Args:
        cfg: Its model has a ``backbone``, or wraps one that has.
        tuners: Part of that model, such as ``'backbone'`` -> configs of its
            tuners. What they say of the trunk of a backbone, such as
            ``stochastic_trunk``, goes to ``TunedBackbone``.

    Raises:
        SystemExit: If there is no backbone, or it is tuned already.
    """
    model = cfg.get('model')
    while isinstance(model, dict) and not model.get('backbone'):
        _check_stock('model', model)
        model = next((model[key] for key in _INSIDE if model.get(key)), None)
    stock = model.get('backbone') if isinstance(model, dict) else None
    if not isinstance(stock, dict) or 'type' not in stock:
        raise SystemExit(
            '--tuner finds no backbone=dict(type=...) in the model, nor in a '
            f'{" or ".join(_INSIDE)} inside it: in a copy of the config, put '
            "dict(type='mmlowrank.TunedBackbone', backbone=dict(...), "
            'tuner=dict(...)) where its backbone is'
        )
    _check_stock('backbone', stock)
    _check_stock('model', model)
    if tuners.keys() == {_BACKBONE}:
        model[_BACKBONE] = _tuned_backbone(stock, tuners[_BACKBONE])
    else:
        of_weights = GENERAL - OF_TRUNK
        for tuner in (tuner for found in tuners.values() for tuner in found):
            if of_weights & tuner.keys():
                raise SystemExit(
                    f'--cfg-options tuner.{min(of_weights & tuner.keys())} is '
                    'for a tuned backbone alone: name one checkpoint of the '
                    'whole model with load_from, or with model.init_cfg'
                )
        model['model'] = model['type']
        model['type'] = 'mmlowrank.TunedModel'
        model['tuners'] = {
            part: found[0] if len(found) == 1 else [*found]
            for part, found in tuners.items()
        }
    _use_our_groups(cfg)
    hooks = cfg.get('custom_hooks') or []
    kinds = [hook['type'] for hook in hooks if isinstance(hook, dict)]
    if all(type_name(kind, HOOKS) != 'FreezeAuditHook' for kind in kinds):
        cfg.custom_hooks = [*hooks, dict(type='mmlowrank.FreezeAuditHook')]


def _tuned_backbone(stock: dict, tuners: Sequence[dict]) -> ConfigDict:
    # Of several, TunedBackbone unites what they say of the trunk.
    several = OF_TRUNK if len(tuners) > 1 else set()
    trunk = GENERAL - {'backbone', 'tuner'} - several
    own = [{k: v for k, v in t.items() if k not in trunk} for t in tuners]
    return ConfigDict(
        type='mmlowrank.TunedBackbone',
        backbone=stock,
        tuner=own[0] if len(own) == 1 else own,
        **{k: v for t in tuners for k, v in t.items() if k in trunk},
    )


def _check_stock(what: str, config: dict) -> None:
    name = 'type' in config and type_name(config['type'], MODELS)
    if name in MODELS.module_dict:
        raise SystemExit(
            f"--tuner needs a stock {what}, and this one is '{name}', "
            "mmlowrank's own: leave --tuner out, or name the stock config"
        )


def _is_tuners(key: str) -> bool:
    return key.split('.')[0] == 'tuner'


def _read_tuner(name: str, options: dict[str, Any]) -> dict:
    """Return the dict of a file, with options, under the tuner's own type."""
    path = _FOLDER / f'{name}.py'
    if not path.is_file():
        path = Path(config_packages.find(name))
    if not path.is_file():
        known = sorted(file.stem for file in _FOLDER.glob('*.py'))
        near = [f'{name}_cls'] if f'{name}_cls' in known else []
        near = near or get_close_matches(name, known, n=1)
        raise SystemExit(
            f"There is no tuner '{name}'"
            + (f"; did you mean '{near[0]}'?" if near else '.')
            + f' Known, besides paths of files: {", ".join(known)}'
        )
    cfg = Config.fromfile(path)
    if 'type' not in (cfg.get('tuner') or {}):
        raise SystemExit(
            f"{path} must have a dict tuner, as tuner=dict(type='LoRA')"
        )
    try:
        written = tuner_name(cfg.tuner.type)
        cfg.merge_from_dict(options)
        kind = tuner_name(cfg.tuner.type)
    except KeyError as error:
        raise SystemExit(f'--tuner {name}: {error.args[0]}') from None
    known = arguments_of(kind) | GENERAL - {'backbone', 'tuner'}
    asked = {key.split('.')[1] for key in options}
    tuner = dict(type=kind)
    for key, value in cfg.tuner.items():
        if key in known:
            tuner[key] = value
        elif key != 'type' and (key in asked or kind == written):
            raise SystemExit(
                f"The tuner {kind} has no argument '{key}'; it has "
                f'{", ".join(sorted(arguments_of(kind))) or "none"}'
            )
    return tuner


def _use_our_groups(cfg: Config) -> None:
    """Take our constructor, and of ``paramwise_cfg`` what it understands."""
    wrapper = cfg.get('optim_wrapper')
    if not wrapper:
        return
    stock = wrapper.get('constructor')
    if stock and type_name(stock, OPTIM_WRAPPER_CONSTRUCTORS) == _OURS:
        return
    options = wrapper.pop('paramwise_cfg', None) or {}
    kept = {key: options[key] for key in options if key in KNOWN}
    dropped = [f'paramwise_cfg.{key}' for key in options if key not in KNOWN]
    for key, values in dict(kept.get('custom_keys') or {}).items():
        # A stock way to freeze a backbone, which would freeze its tuner.
        if key.startswith('backbone') and values.get('lr_mult') == 0:
            kept['custom_keys'].pop(key)
            dropped.append(f"lr_mult=0 of '{key}'")
    if kept:
        wrapper['paramwise_cfg'] = ConfigDict(kept)
    if stock:
        stock = type_name(stock, OPTIM_WRAPPER_CONSTRUCTORS)
        dropped.insert(0, f'constructor={stock!r}')
    wrapper['constructor'] = f'mmlowrank.{_OURS}'
    said = [f'dropped {", ".join(dropped)}'] if dropped else []
    said += [f'kept paramwise_cfg={kept}, for the tuner, too'] if kept else []
    if said:
        # Not to the output, which --print and --json keep clean.
        text = f'--tuner: in optim_wrapper, {"; ".join(said)}'
        print(text, file=sys.stderr)
