"""LoRA in the folder of Hugging Face PEFT, and out of it.

PEFT, https://github.com/huggingface/peft, keeps a LoRA as a folder with
``adapter_config.json`` and ``adapter_model.safetensors``. There a linear layer
has one A of (r, d) and one B of (outputs, r), and adds s B A x, where s is
``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` with ``use_rslora``. Here each
target of a fused qkv has a pair of its own. On the way out all A's of a layer
stand below each other and its B's on a diagonal, so that r is
targets x rank and the update is the same, product by product. On the way in
that comes apart again; or, of a LoRA that PEFT has trained on the whole qkv,
each target has the layer's A and its own rows of B.

In Python::

    from mmlowrank import load_peft, save_peft

    save_peft(model, 'boats')
    load_peft(model, 'boats')

Names in the folder are those of the stock backbone alone:
``peft.PeftModel.from_pretrained(backbone, 'boats')`` takes it on a backbone of
mmdet, mmseg or mmpretrain without mmlowrank, which itself does not need peft.
Neck, heads and what the frozen weights are is not in it.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import lora
from ..tuners import LoRA, tuners_of
from ..tuners.wrappers import unwrapped
from ..tuners.written import checkpoint_of
from .adapter_checks import difference
from .adapter_file import AdapterError, damaged
from .whole_file import whole_file

CONFIG = 'adapter_config.json'
TENSORS = 'adapter_model.safetensors'
_PICKLE = 'adapter_model.bin'
_PREFIX = 'base_model.model.'
# Keys of the config that are read here, or do not change what a saved LoRA
# computes. Any other that is set makes it another method.
_KNOWN = {
    'auto_mapping',
    'base_model_name_or_path',
    'bias',
    'ensure_weight_tying',
    'eva_config',
    'exclude_modules',
    'inference_mode',
    'init_lora_weights',
    'layers_pattern',
    'layers_to_transform',
    'lora_alpha',
    'lora_dropout',
    'megatron_config',
    'megatron_core',
    'peft_type',
    'peft_version',
    'qalora_group_size',
    'r',
    'revision',
    'target_modules',
    'task_type',
    'use_rslora',
}
# Other ways to start also change the frozen weights.
_STARTS = (True, False, 'gaussian', 'eva', 'orthogonal')


def save_peft(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write the LoRA of a model's backbone as PEFT does.

    Args:
        model: A detector, segmentor, classifier or backbone with one
            tuned backbone, whose tuner is LoRA.
        folder: Its two files are replaced, if they are there.

    Raises:
        AdapterError: If the model has no such backbone.
    """
    from safetensors.torch import save

    tuner = lora_of(model)
    tensors, updates = {}, tuner.updates()
    for path, update in updates.items():
        pair = lora.fuse(update.A.detach(), update.B.detach(), update.targets)
        for name, tensor in zip(_names(path), pair, strict=True):
            tensors[name] = tensor.cpu().contiguous()
    rank, alpha, count = update.rank, tuner.alpha, len(update.targets)
    config = dict(
        peft_type='LORA',
        task_type=None,
        base_model_name_or_path=None,
        inference_mode=True,
        r=count * rank,
        lora_alpha=count * (rank if alpha is None else alpha),
        lora_dropout=0.0,
        bias='none',
        fan_in_fan_out=False,
        target_modules=[*updates],
    )
    folder = Path(folder)
    with (
        whole_file(folder / TENSORS) as draft,
        whole_file(folder / CONFIG) as text,
    ):
        draft.write_bytes(save(tensors, dict(format='pt')))
        text.write_text(json.dumps(config, indent=2) + '\n')


def load_peft(model: nn.Module, folder: str | os.PathLike) -> None:
    """Read a folder of PEFT into the LoRA of a model's backbone.

    Frozen weights that nothing has loaded yet are, as ``init_cfg`` says; the
    rest of the model stays. Nothing is changed unless all fits.

    Args:
        model: As of :func:`save_peft`, with the rank, alpha and sites that
            the folder needs; the error says which.
        folder: Of :func:`save_peft`, or of PEFT: a LoRA of the qkv of every
            block of the stock backbone, and of nothing else.

    Raises:
        AdapterError: If the folder is damaged, or has what the LoRA of the
            model does not compute.
        RuntimeError: If the checkpoint of ``init_cfg`` does not fit.
    """
    tuner, folder = lora_of(model), Path(folder)
    config = _config(folder)
    r = config['r']
    scale = config['lora_alpha'] / (r**0.5 if config.get('use_rslora') else r)
    pairs, updates = _pairs(folder, r, tuner), tuner.updates()
    update = next(iter(updates.values()))
    rank, sites = update.rank, update.targets
    found = _split(pairs, rank, sites)
    if found is None or not math.isclose(scale, update.scale, rel_tol=1e-6):
        raise AdapterError(
            f'{folder} has a LoRA of r={r} and scale {scale:g}, '
            f'which one of rank={rank}, sites={sites} and scale '
            f'{update.scale:g} is not; it takes '
            f'{_fitting(pairs, rank, sites, scale)}'
        )
    if checkpoint_of(tuner.backbone) and not tuner.has_base():
        tuner.init_backbone_weights()
    with torch.no_grad():
        for path, (A, B) in found.items():
            updates[path].A.copy_(A)
            updates[path].B.copy_(B)


def lora_of(model: nn.Module) -> LoRA:
    """Return the tuner of the one tuned backbone of a model.

    Raises:
        AdapterError: If there is none, are several, or it is no LoRA of one
            rank.
    """
    model = unwrapped(model)
    tuners = [*tuners_of(model).values()]
    kinds = ', '.join(tuner.title for tuner in tuners)
    if len(tuners) > 1:
        raise AdapterError(
            f'{type(model).__name__} has several tuned backbones ({kinds}), '
            'and a folder of PEFT is of one: pass that backbone'
        )
    if not tuners or not isinstance(tuners[0], LoRA):
        raise AdapterError(
            f'the tuner of this {type(model).__name__} is '
            f'{kinds or "missing"}, and a folder of PEFT has a LoRA: build '
            "the backbone with tuner=dict(type='LoRA', ...)"
        )
    try:
        updates = tuners[0].updates()
    except ValueError as error:
        raise AdapterError(
            f'PEFT has no layout for this LoRA: {error}'
        ) from None
    if len({update.rank for update in updates.values()}) > 1:
        raise AdapterError(
            f'this LoRA has rank={tuners[0].rank}, and a folder of PEFT is '
            'written and read with one rank for all stages: build the '
            'backbone with one'
        )
    return tuners[0]


def _names(path: str) -> Iterator[str]:
    """Yield the names of A and B of a layer."""
    yield from (f'{_PREFIX}{path}.lora_{part}.weight' for part in 'AB')


def _config(folder: Path) -> dict[str, Any]:
    """Read the text and refuse what is not plain LoRA."""
    if not (folder / CONFIG).is_file():
        raise AdapterError(
            f'{folder} is no folder of PEFT: it has no {CONFIG}'
        )
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(folder / CONFIG, error) from None
    if not isinstance(config, dict):
        raise damaged(folder / CONFIG, 'it is no table')
    if config.get('peft_type') != 'LORA':
        raise AdapterError(
            f'{folder} has peft_type={config.get("peft_type")!r}, and only '
            "'LORA' can be read"
        )
    for key, value in config.items():
        if (
            (key not in _KNOWN and value)
            or (key == 'bias' and value != 'none')
            or (key == 'init_lora_weights' and value not in _STARTS)
        ):
            raise AdapterError(
                f'{folder} was trained with {key}={value!r}, which the LoRA '
                'of mmlowrank does not compute: train it without'
            )
    r, alpha = config.get('r'), config.get('lora_alpha')
    if type(r) is not int or r < 1:
        raise damaged(folder / CONFIG, f'its r is {r!r}')
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise damaged(folder / CONFIG, f'its lora_alpha is {alpha!r}')
    return config


def _pairs(
    folder: Path, r: int, tuner: LoRA
) -> dict[str, tuple[Tensor, Tensor]]:
    """Read path of a layer -> its A and B, of the right shapes."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / TENSORS).is_file():
        has_pickle = (folder / _PICKLE).is_file()
        raise AdapterError(
            f'{folder} has no {TENSORS}'
            + (
                f', and {_PICKLE} is a pickle, which is not read: save it '
                'with safe_serialization=True'
                if has_pickle
                else ''
            )
        )
    try:
        found = load_file(folder / TENSORS)
    except SafetensorError as error:
        raise damaged(folder / TENSORS, error) from None
    wanted = {}
    for path, update in tuner.updates().items():
        width = update.embed_dims
        shapes = ((r, width), (3 * width, r))
        for name, shape in zip(_names(path), shapes, strict=True):
            wanted[name] = torch.empty(shape, device='meta')
    problem = difference(found, wanted)
    if problem:
        target_modules = (
            ['qkv'] if tuner.layers is None else [*tuner.updates()]
        )
        raise AdapterError(
            f'{folder} does not fit this {type(tuner.backbone).__name__}: '
            f'{problem}. It must be a LoRA of the stock backbone alone, and '
            'of the qkv of all blocks that the tuner updates: '
            f'peft.get_peft_model(backbone, LoraConfig({target_modules=}))'
        )
    return {
        path: tuple(found[name] for name in _names(path))
        for path in tuner.updates()
    }


def _split(
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    rank: int,
    sites: tuple[str, ...],
) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Return path -> A and B of the sites, or None if one is not so."""
    found = {p: lora.split(*ab, rank, sites) for p, ab in pairs.items()}
    return None if None in found.values() else found


def _fitting(
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    rank: int,
    sites: tuple[str, ...],
    scale: float,
) -> str:
    """Say what tuner a folder needs; at best of this rank and sites."""
    r = len(next(iter(pairs.values()))[0])
    used = tuple(
        part
        for index, part in enumerate(lora.PARTS)
        if any(b.chunk(3)[index].any() for _, b in pairs.values())
    )
    used = used or lora.PARTS
    candidates = [(rank, sites), (r // len(used), used), (r, used)]
    rank, sites = next(c for c in candidates if _split(pairs, *c))
    width = min(a.shape[1] for a, _ in pairs.values())
    if rank > width:
        return f'a rank of {rank}, which is more than the width {width}'
    return (
        f"tuner=dict(type='LoRA', rank={rank}, alpha={scale * rank:.12g}, "
        f'sites={sites})'
    )
