"""Turn a model into a checkpoint of the plain model that computes the same.

A tuned backbone becomes the stock one, which needs no mmlowrank, and so does
a stock model whose layers share weights (LORS); a decoder with LORS becomes
AdaMixer's own.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..nn import AdaptiveMixing, LORSLinear
from ..tuners import CHILD, CannotMerge, tuners_of
from .plain_values import plain
from .whole_file import whole_file

# Of the largest output: merging rounds each float32 weight once.
TOLERANCE = 1e-4
# Keys of a config that testing and inferencers read.
_OF_TESTS = (
    'default_scope',
    'model',
    'data_preprocessor',
    'test_dataloader',
    'test_evaluator',
    'test_cfg',
    'test_pipeline',
    'tta_model',
    'tta_pipeline',
    'visualizer',
    'env_cfg',
    'log_level',
)


class Merged(NamedTuple):
    """What :func:`merge` makes of a model.

    Attributes:
        state_dict: Of the plain model.
        tuners: Whether the tuners were merged.
        lors: Whether LORS of a decoder was merged.
        stack: Whether LORS of a stock model's layers was.
        stays: Why the tuners stay, where LORS could be merged without them.
    """

    state_dict: dict[str, Tensor]
    tuners: bool
    lors: bool
    stack: bool
    stays: str = ''


def merge(model: nn.Module) -> Merged:
    """Merge the tuners and LORS of a model, which stays as it is.

    Args:
        model: A detector, segmentor, classifier or backbone with a tuner, an
            AdaMixer with LORS, or both; or one with a ``StackSharedViT``, or
            a ``StackSharedModel``.

    Raises:
        CannotMerge: If a tuner has no stock form, and no decoder has LORS.
        ValueError: If there is no tuner and no LORS.
    """
    tuners, mixing = tuners_of(model), _mixing_with_lors(model)
    stacked = _stacked_linears(model)
    if not (tuners or mixing or stacked):
        raise ValueError(
            f'{type(model).__name__} has no tuner and no LORS, so it is a '
            'plain model already: there is nothing to merge'
        )
    state_dict, stays = dict(model.state_dict()), ''
    try:
        for path, tuner in tuners.items():
            state_dict = _without_tuner(state_dict, path, tuner.merge())
    except CannotMerge as error:
        if not mixing:
            raise
        state_dict, stays = dict(model.state_dict()), str(error)
    for path, module in mixing.items():
        plain = module.merged().state_dict(prefix=f'{path}.')
        state_dict = {
            name: tensor
            for name, tensor in state_dict.items()
            if not name.startswith(f'{path}.')
        }
        state_dict.update(plain)
    if stacked:
        state_dict = _without_stacks(state_dict, model, stacked)
    state_dict = {
        n: t.detach().cpu().contiguous() for n, t in state_dict.items()
    }
    return Merged(
        state_dict,
        tuners=bool(tuners) and not stays,
        lors=bool(mixing),
        stack=bool(stacked),
        stays=stays,
    )


def _mixing_with_lors(model: nn.Module) -> dict[str, AdaptiveMixing]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, AdaptiveMixing) and module.is_lors
    }


def _stacked_linears(model: nn.Module) -> dict[str, LORSLinear]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, LORSLinear)
    }


@torch.no_grad()
def _without_stacks(
    state_dict: dict[str, Tensor],
    model: nn.Module,
    linears: dict[str, LORSLinear],
) -> dict[str, Tensor]:
    """Give each linear layer its weight and drop what they share."""
    stacks = {id(linear.stack) for linear in linears.values()}
    owners = tuple(
        f'{path}.'
        for path, module in model.named_modules()
        if id(module) in stacks
    )
    kept = {n: t for n, t in state_dict.items() if not n.startswith(owners)}
    for path, linear in linears.items():
        kept[f'{path}{linear.joint}weight'], bias = linear.effective()
        if bias is not None:
            kept[f'{path}{linear.joint}bias'] = bias
    return kept


def _without_tuner(
    state_dict: dict[str, Tensor], path: str, merged: dict[str, Tensor]
) -> dict[str, Tensor]:
    prefix = path.removesuffix(CHILD)
    return {
        name: merged.get(name.removeprefix(prefix), tensor)
        if name.startswith(prefix)
        else tensor
        for name, tensor in state_dict.items()
        if not name.startswith(f'{path}.')
    }


def save_checked(
    state_dict: dict[str, Tensor],
    meta: dict,
    out: Path,
    tuned: nn.Module,
    stock: nn.Module,
    images: Tensor,
) -> float:
    """Write a merged checkpoint if the plain model computes the same.

    The file is read back, loaded strictly into ``stock`` and run. It gets
    its name only afterwards.

    Args:
        state_dict: Of :func:`merge`.
        meta: What else the checkpoint says; values that are no plain Python
            are left out.
        out: Where to write.
        tuned: The model that was merged.
        stock: The plain model, with any weights.
        images: (batch, 3, height, width), for both.

    Returns:
        What :func:`largest_difference` does.

    Raises:
        RuntimeError: If the outputs differ by more than ``TOLERANCE``, or
            the checkpoint does not fit the plain model.
    """
    with whole_file(out) as draft:
        torch.save(dict(meta=plain(meta), state_dict=state_dict), draft)
        again = torch.load(draft, map_location='cpu', weights_only=True)
        stock.load_state_dict(again['state_dict'], strict=True)
        difference = largest_difference(tuned, stock, images)
        # Not <= is also where an output is nan.
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f'the merged model differs from the tuned one by '
                f'{difference:.1e} of its largest output, more than '
                f'{TOLERANCE:.0e}; {out} was not written. A badly '
                'conditioned weight can cause this: ship the tuned model '
                'with mmlowrank instead'
            )
    return difference


def plain_config(cfg: Config) -> tuple[Config, list[str]]:
    """Return what a test of the plain model and inferencers need of a config.

    Args:
        cfg: With the plain model in it.

    Returns:
        The config, and the keys that are left out because what they name is
        of mmlowrank, as its data sets are.
    """
    found = {key: cfg[key] for key in _OF_TESTS if key in cfg}
    ours = [key for key in found if 'mmlowrank' in repr(found[key])]
    return Config({k: v for k, v in found.items() if k not in ours}), ours


def backbone_of(model: nn.Module) -> nn.Module:
    """Return ``model.backbone``, or the model if it is a backbone."""
    return getattr(model, 'backbone', model)


@torch.no_grad()
def largest_difference(
    one: nn.Module, other: nn.Module, images: Tensor
) -> float:
    """Compare what two models compute, in evaluation mode.

    Of a detector whose decoder or head has LORS, these are class scores and
    boxes of each stage; of others what the backbones return, and each layer
    elsewhere that a tuner changes. These are compared one by one: a detector
    that takes the best of its queries may take others for a rounding error.

    Returns:
        max |difference| / max |output|, the worst over the outputs.
    """
    one.eval(), other.eval()
    whole = bool(_linears_behind_the_backbone(one))
    pairs = [
        *zip(
            _outputs(one, images, whole),
            _outputs(other, images, whole),
            strict=True,
        ),
        *_outputs_elsewhere(one, other),
    ]
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)


def _outputs_elsewhere(
    one: nn.Module, other: nn.Module
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what both make of random inputs where a tuner changes layers."""
    generator = torch.Generator().manual_seed(0)
    for path, tuner in tuners_of(one).items():
        if tuner.backbone is backbone_of(one):
            continue
        for change in tuner.linear_changes():
            layer = change.layer.module
            inputs = _random_inputs(layer, generator)
            name = f'{path.removesuffix(CHILD)}{change.layer.path}'.strip('.')
            outputs = (m(*inputs) for m in (layer, other.get_submodule(name)))
            yield from zip(*map(_tensors, outputs), strict=True)


def _random_inputs(
    layer: nn.Module, generator: torch.Generator
) -> list[Tensor]:
    """Return what a layer that is known by its kind can read."""
    if isinstance(layer, nn.MultiheadAttention):
        shapes = [(7, 1, w) for w in (layer.embed_dim, layer.kdim, layer.vdim)]
        if layer.batch_first:
            shapes = [(1, 7, width) for _, _, width in shapes]
    elif isinstance(layer, nn.Conv2d):
        sizes = (
            d * (k - 1) + 8
            for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        )
        shapes = [(1, layer.in_channels, *sizes)]
    else:
        shapes = [(7, layer.in_features)]
    weight = next(layer.parameters())
    return [
        torch.randn(shape, generator=generator).to(weight) for shape in shapes
    ]


def _linears_behind_the_backbone(model: nn.Module) -> set[LORSLinear]:
    inside = {*_stacked_linears(backbone_of(model)).values()}
    return {*_stacked_linears(model).values()} - inside


def _outputs(model: nn.Module, images: Tensor, whole: bool) -> list[Tensor]:
    mixings = [m for m in model.modules() if isinstance(m, AdaptiveMixing)]
    if not (mixings or whole):
        return list(backbone_of(model)(images))
    for mixing in mixings:
        # It would compare what is merged with itself.
        mixing.merge_at_eval = False
    # DETRs ask where in the batch each image ends.
    size = images.shape[2:]
    samples = [
        BaseDataElement(metainfo=dict(img_shape=size, batch_input_shape=size))
        for _ in images
    ]
    return [*_tensors(model(images, samples, mode='tensor'))]


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in what a model returns, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors([*output.values()])
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)
