"""What the command lines of tools/model_converters share."""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

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
        config: Add ``config``, too.
    """
    if config:
        parser.add_argument('config', help='config the model was trained with')
    parser.add_argument('checkpoint', help='checkpoint or adapter file')
    parser.add_argument('out', type=new_file, help=out)
    parser.add_argument('--trust', action='store_true', help=TRUST)


def build(cfg: Config) -> nn.Module:
    """Return the model of a config, in whose scope this process stays."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return MODELS.build(cfg.model)
