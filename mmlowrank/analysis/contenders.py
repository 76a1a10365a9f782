"""What the benchmarks compare: our methods, plain ones, and peers.

The peers are the LoRAs of Hugging Face's ``peft`` and of mmpretrain on the
same stock backbone. Theirs of rank r updates the fused query-key-value
projection as one map, with r d + 3 r d parameters; ours updates q and v by
maps of their own, with 2 (r d + r d): as many, at the same rank.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .formed import form_weights

ARCHS = {
    'tiny': dict(embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24]),
    'small': dict(
        embed_dims=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24]
    ),
    'base': dict(
        embed_dims=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32]
    ),
    'large': dict(
        embed_dims=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48]
    ),
}

# Other stock backbones, as a detector or segmentor has them: scope, config.
BACKBONES = {
    **{
        f'dinov2-{size}': (
            'mmpretrain',
            dict(
                type='VisionTransformer',
                arch=arch,
                img_size=518,
                patch_size=14,
                layer_scale_init_value=1e-5,
                out_type='featmap',
                out_indices=outputs,
            ),
        )
        for size, arch, outputs in (
            ('small', 'dinov2-small', (2, 5, 8, 11)),
            ('base', 'base', (2, 5, 8, 11)),
            ('large', 'large', (5, 11, 17, 23)),
        )
    },
    **{
        f'convnext-{size}': (
            'mmpretrain',
            dict(
                type='ConvNeXt',
                arch=size,
                out_indices=(0, 1, 2, 3),
                gap_before_final_norm=False,
            ),
        )
        for size in ('tiny', 'base')
    },
    'mit-b0': ('mmseg', dict(type='MixVisionTransformer', embed_dims=32)),
}


def method_table() -> dict[str, tuple[dict, Callable | None]]:
    """Return name -> (tuner config, change made to the built backbone)."""
    return {
        'FULL': (dict(type='Full'), None),
        'FIXED': (dict(type='Fixed'), None),
        'BitFit': (dict(type='BitFit'), None),
        'NormTuning': (dict(type='NormTuning'), None),
        'Partial-1': (dict(type='Partial'), None),
        'Adapter-64': (dict(type='Adapter', mid_channels=64), None),
        'LoRA-64': (dict(type='LoRA', rank=64), None),
        'LoRA-64, stock trunk': (
            dict(type='LoRA', rank=64, memory='stock'),
            None,
        ),
        'AdaptFormer-64': (dict(type='AdaptFormer', mid_channels=64), None),
        'Mona': (dict(type='Mona'), None),
        'CoLin': (dict(type='CoLin'), None),
        'SSF': (dict(type='SSF'), None),
        'RLRR': (dict(type='RLRR'), None),
        'LoRand': (dict(type='LoRand'), None),
        'LoRand, stock trunk': (dict(type='LoRand', memory='stock'), None),
        'LoRand, W formed': (
            dict(type='LoRand', memory='stock'),
            form_weights,
        ),
        'E3VA': (dict(type='E3VA', rank=8), None),
        'E3VA+': (dict(type='E3VA', rank=16), None),
        'E3VA++': (dict(type='E3VA', rank=32), None),
        'E3VA + Mona': (dict(type='E3VA', adapter='mona'), None),
        'E3VA + CoLin': (
            dict(type='E3VA', adapter='colin', rank=28),
            None,
        ),
        'E3VA, W formed': (dict(type='E3VA', memory='stock'), form_weights),
    }


def build_tuned(
    arch: str, tuner: dict, scope: str = 'mmdet', **kwargs: object
) -> nn.Module:
    """Build a tuned backbone of a standard size, stochastic depth off.

    Args:
        arch: Size of a Swin, one of ``ARCHS``, or one of ``BACKBONES``.
        tuner: Config of the tuner.
        scope: Of a Swin.
        **kwargs: Further arguments of the stock backbone.
    """
    scope, stock = _stock_config(arch, scope)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(
            dict(
                type='mmlowrank.TunedBackbone',
                backbone=dict(stock, **kwargs),
                tuner=tuner,
            )
        )


def build_stock(arch: str) -> nn.Module:
    """Build the stock backbone of a standard size, as it trains."""
    scope, stock = _stock_config(arch)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(stock)


def build_frozen(arch: str) -> nn.Module:
    """Build the stock backbone with all its parameters frozen."""
    return build_stock(arch).requires_grad_(False)


def build_peft(arch: str, rank: int = 64) -> nn.Module:
    """Build the stock backbone with a LoRA of ``peft`` on its qkv.

    Raises:
        ImportError: If ``peft`` is not where ``setup_env.sh`` puts it.
    """
    with _packages_of_peft():
        try:
            import peft
        except ImportError as error:
            raise ImportError(
                f'peft is not there ({error}). bash tools/setup_env.sh '
                'installs it, see requirements/peft.txt'
            ) from error
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=['qkv'])
    return peft.get_peft_model(build_stock(arch), config)


def build_mmpretrain(arch: str, rank: int = 64) -> nn.Module:
    """Build the stock backbone with a ``LoRAModel`` of mmpretrain on its qkv.

    Raises:
        ImportError: If mmpretrain is not there.
    """
    from mmpretrain.models.peft import LoRAModel

    scope, stock = _stock_config(arch)
    stock['type'] = f'{scope}.' + stock['type']
    logging.disable(logging.INFO)  # a line for each layer
    try:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            return LoRAModel(
                module=stock,
                rank=rank,
                alpha=rank,
                targets=[dict(type='qkv')],
            )
    finally:
        logging.disable(logging.NOTSET)


# What is built without a tuner of ours: name -> function of the size.
OTHERS: dict[str, Callable[[str], nn.Module]] = {
    'stock FIXED': build_frozen,
    'peft LoRA-64': build_peft,
    'mmpretrain LoRA-64': build_mmpretrain,
}


def contenders() -> list[str]:
    """Return the names of all that can be compared."""
    return [*method_table(), *OTHERS]


def build(arch: str, name: str) -> nn.Module:
    """Build one of :func:`contenders`.

    Raises:
        ImportError: If its package is not there.
        TypeError: If the backbone lacks what the method needs.
        ValueError: If a number of the method does not fit the backbone.
    """
    if name in OTHERS:
        return OTHERS[name](arch)
    tuner, change = method_table()[name]
    backbone = build_tuned(arch, tuner)
    if change is not None:
        change(backbone)
    return backbone


def _stock_config(arch: str, scope: str = 'mmdet') -> tuple[str, dict]:
    if arch in BACKBONES:
        scope, stock = BACKBONES[arch]
    else:
        stock = dict(type='SwinTransformer', **ARCHS[arch])
    return scope, dict(stock, drop_path_rate=0.0)


@contextmanager
def _packages_of_peft() -> Iterator[None]:
    """Find packages first in the folder of ``peft``, see requirements/."""
    folder = str(Path(sys.prefix) / 'peft')
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.path.append(folder)  # for what is imported later
