"""What the command lines of tools/model_converters share."""

import argparse
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from .. import config_packages
from .trust import TRUST


def new_file(text: str) -> Path:
    """Return the path of what is to be written; the type of an argument.

    Raises:
        SystemExit: If something is there.
    """
    if Path(text).exists():
        raise SystemExit(f'{text} exists; remove it or choose another')
    return Path(text)


def add_arguments(
    parser: argparse.ArgumentParser, out: str, config: bool = True
) -> None:
    """Add ``checkpoint``, ``out`` and ``--trust``.

    Args:
        parser: Of the tool.
        out: What is written, for the help.
        config: Add ``config`` and ``--cfg-options``, too.
    """
    if config:
        parser.add_argument('config', help='config the model was trained with')
        parser.add_argument(
            '--cfg-options',
            nargs='+',
            action=DictAction,
            help='override settings of the config, as in training',
        )
    parser.add_argument('checkpoint', help='checkpoint or adapter file')
    parser.add_argument('out', type=new_file, help=out)
    parser.add_argument('--trust', action='store_true', help=TRUST)


def build(
    config: str, options: dict[str, Any] | None = None
) -> tuple[Config, nn.Module]:
    """Return a config and its model, in whose scope this process stays.

    Args:
        config: File, or ``package::path``.
        options: Of ``--cfg-options``.
    """
    cfg = Config.fromfile(config_packages.find(config))
    cfg.merge_from_dict(options or {})
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return cfg, MODELS.build(cfg.model)
