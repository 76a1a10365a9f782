"""Read and write AdaMixer and LORS checkpoints of the authors' repositories.

Both are for mmdet 2.x: the published checkpoints of MCG-NJU/AdaMixer, and
the layout of li-jl16/LORS, which published none. Every key is renamed; four
kinds of tensor are also laid out differently:

- rows of a generator: a group's spatial matrix is (out, in) points there,
  (in, out) here, as the papers write it;
- the factors of LORS^A have groups and terms in one dimension there, and
  those of the spatial matrix, with their E, are transposed for that reason;
- the factors of LORS^T are transposed, and called A on the input side.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from ..nn.mixing_matrices import MixingSizes

_WEIGHTS = ('weight', 'bias')
# In the original, in ours; of each stage, with .weight and .bias.
_STAGE = {
    'attention.attn.out_proj': 'attention.out_proj',
    'attention_norm': 'attention.norm',
    'ffn.layers.0.0': 'ffn.0',
    'ffn.layers.1': 'ffn.2',
    'ffn_norm': 'ffn_norm',
    'cls_fcs.0': 'cls_tower.0',
    'cls_fcs.1': 'cls_tower.1',
    'reg_fcs.0': 'reg_tower.0',
    'reg_fcs.1': 'reg_tower.1',
    'fc_cls': 'fc_cls',
    'fc_reg': 'fc_reg',
}


class _Entry(NamedTuple):
    """Where a tensor is in the other layout, and how it is laid out."""

    key: str
    layout: str = 'same'
    stage: int = 0


class _Layout:
    """Changes tensors between the layouts.

    Args:
        sizes: Of the mixing.
        ranks: Rank of LORS^A in each stage.
    """

    def __init__(self, sizes: MixingSizes, ranks: list[int]) -> None:
        self.sizes, self.ranks = sizes, ranks

    def change(self, tensor: Tensor, entry: _Entry, to_ours: bool) -> Tensor:
        """Return a tensor as the other layout has it."""
        return getattr(self, f'_{entry.layout}')(tensor, entry.stage, to_ours)

    def _same(self, tensor: Tensor, *_: object) -> Tensor:
        return tensor

    def _transposed(self, tensor: Tensor, *_: object) -> Tensor:
        return tensor.t().contiguous()

    def _generator(self, tensor: Tensor, _: int, to_ours: bool) -> Tensor:
        groups, channels, points, outs = self.sizes
        rows = tensor.unflatten(0, (groups, -1)).clone()
        shape = (outs, points) if to_ours else (points, outs)
        spatial = rows[:, channels**2 :].unflatten(1, shape).transpose(1, 2)
        rows[:, channels**2 :] = spatial.flatten(1, 2)
        return rows.flatten(0, 1)

    def _codes(self, tensor: Tensor, stage: int, _: bool) -> Tensor:
        rank = self.ranks[stage]
        codes = tensor.unflatten(0, (2, -1, rank, rank)).clone()
        codes[1] = codes[1].transpose(1, 2).clone()
        return codes.flatten(0, 3)

    def _factor(self, tensor: Tensor, _: int, to_ours: bool) -> Tensor:
        if to_ours:
            return tensor.unflatten(0, (self.sizes.groups, -1))
        return tensor.flatten(0, 1)

    def _factor_transposed(
        self, tensor: Tensor, stage: int, to_ours: bool
    ) -> Tensor:
        factor = self._factor(tensor, stage, to_ours)
        return factor.transpose(-1, -2).contiguous()


def to_mmlowrank(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of the authors' detectors in our layout.

    Args:
        state_dict: Of AdaMixer, or of AdaMixer with LORS.

    Raises:
        ValueError: If a key is missing or unknown.
    """
    lors = any(key.startswith('roi_head.adaptive') for key in state_dict)
    stages = _count(r'roi_head\.bbox_head\.(\d+)\.', state_dict)
    levels = _count(r'neck\.lateral_convs\.(\d+)\.', state_dict)
    table = _table(stages, levels, lors)
    _check(state_dict, table, 'the AdaMixer or LORS repository')
    mixing = 'roi_head.adaptive_mixing.'
    if lors:
        generator = mixing + 'common_parameter_generator.bias'
        output = mixing + 'base_out_proj.weight'
    else:
        first = 'roi_head.bbox_head.0.sampling_n_mixing.adaptive_mixing.'
        generator = first + 'parameter_generator.0.bias'
        output = first + 'out_proj.weight'
    offsets = next(
        k for k, e in table.items() if e.key.endswith('0.offsets.bias')
    )
    sizes = _sizes(
        *(state_dict[key] for key in ('neck.gn_out.weight', offsets)),
        *(state_dict[key] for key in (generator, output)),
    )
    ranks = [
        state_dict[f'{mixing}ml_parameters.{i}'].shape[2] if lors else 0
        for i in range(stages)
    ]
    return _convert(state_dict, table, _Layout(sizes, ranks), to_ours=True)


def to_original(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our state dict in the layout of the authors' detectors.

    Args:
        state_dict: Of ``AdaMixer``, plain or with both parts of LORS and
            the biases of the public code.

    Raises:
        ValueError: If a key is missing or unknown; the authors' layout has
            no place for other biases, or for one part of LORS alone.
    """
    mixing = 'decoder.mixing.'
    lors = f'{mixing}output.weight' in state_dict
    stages = _count(r'decoder\.stages\.(\d+)\.', state_dict)
    levels = _count(r'neck\.convs\.(\d+)\.', state_dict)
    table = {
        entry.key: entry._replace(key=key)
        for key, entry in _table(stages, levels, lors).items()
    }
    _check(state_dict, table, 'mmlowrank, in a form that the authors have')
    sizes = _sizes(
        state_dict['neck.norm.weight'],
        state_dict['decoder.stages.0.offsets.bias'],
        state_dict[mixing + f'generator.{"shared" if lors else 0}.bias'],
        state_dict[mixing + f'output.{"" if lors else "0."}weight'],
    )
    private = mixing + 'generator.private.{}.channel_B'
    ranks = [
        state_dict[private.format(i)].shape[3] if lors else 0
        for i in range(stages)
    ]
    return _convert(state_dict, table, _Layout(sizes, ranks), to_ours=False)


def _table(num_stages: int, num_levels: int, lors: bool) -> dict[str, _Entry]:
    """Return original key -> ours, the backbone excepted."""
    table = {
        'rpn_head.init_proposal_bboxes.weight': _Entry('queries.boxes'),
        'rpn_head.init_content_features.weight': _Entry('queries.content'),
    }

    def layers(original: str, ours: str, *rest: object) -> None:
        for kind in _WEIGHTS:
            table[f'{original}.{kind}'] = _Entry(f'{ours}.{kind}', *rest)

    for level in range(num_levels):
        layers(f'neck.lateral_convs.{level}.conv', f'neck.convs.{level}')
    layers('neck.gn_out', 'neck.norm')
    mixing, ours_mixing = 'roi_head.adaptive_mixing', 'decoder.mixing'
    for i in range(num_stages):
        head, ours = f'roi_head.bbox_head.{i}', f'decoder.stages.{i}'
        table[f'{head}.iof_tau'] = _Entry(f'{ours}.attention.tau')
        for kind in _WEIGHTS:
            table[f'{head}.attention.attn.in_proj_{kind}'] = _Entry(
                f'{ours}.attention.in_proj.{kind}'
            )
        for original, name in _STAGE.items():
            layers(f'{head}.{original}', f'{ours}.{name}')
        sampling = f'{head}.sampling' + ('' if lors else '_n_mixing')
        offsets = f'{sampling}.sampling_offset_generator.0'
        layers(offsets, f'{ours}.offsets')
        if not lors:
            own = f'{sampling}.adaptive_mixing'
            generator = f'{ours_mixing}.generator.{i}'
            layers(f'{sampling}.norm', f'{ours}.mixing_norm')
            layers(f'{own}.parameter_generator.0', generator, 'generator')
            layers(f'{own}.out_proj', f'{ours_mixing}.output.{i}')
            continue
        layers(f'{mixing}.out_norm.{i}', f'{ours}.mixing_norm')
        private = f'{ours_mixing}.generator.private.{i}'
        codes = f'{mixing}.private_parameter_generator.{i}'
        layers(codes, f'{private}.E', 'codes', i)
        output = f'{ours_mixing}.output'
        for original, name, layout in (
            ('ml_parameters', f'{private}.channel_B', 'factor'),
            ('mr_parameters', f'{private}.channel_A', 'factor'),
            ('sr_parameters', f'{private}.spatial_B', 'factor_transposed'),
            ('sl_parameters', f'{private}.spatial_A', 'factor_transposed'),
            ('out_weight_add_A', f'{output}.B.{i}', 'transposed'),
            ('out_weight_add_B', f'{output}.A.{i}', 'transposed'),
            ('out_weight_bias', f'{output}.biases.{i}', 'same'),
        ):
            table[f'{mixing}.{original}.{i}'] = _Entry(name, layout, i)
    if lors:
        shared = f'{ours_mixing}.generator.shared'
        layers(f'{mixing}.common_parameter_generator', shared, 'generator')
        weight = _Entry(f'{ours_mixing}.output.weight')
        table[f'{mixing}.base_out_proj.weight'] = weight
    return table


def _count(pattern: str, keys: Iterable[str]) -> int:
    found = [re.match(pattern, key) for key in keys]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _check(
    state_dict: dict[str, Tensor], table: dict[str, _Entry], whose: str
) -> None:
    """Check that all keys are known, and all that is known is there."""
    keys = {key for key in state_dict if not key.startswith('backbone.')}
    problems = {
        'unknown': keys - table.keys(),
        'missing': table.keys() - keys,
    }
    for what, wrong in problems.items():
        if wrong:
            shown = ', '.join(sorted(wrong)[:5])
            raise ValueError(
                f'not a detector of {whose}: {len(wrong)} keys are {what} '
                f'({shown}{", ..." if len(wrong) > 5 else ""})'
            )


def _sizes(
    norm: Tensor, offsets: Tensor, generator: Tensor, output: Tensor
) -> MixingSizes:
    """Find the sizes of the mixing from the shapes of four tensors."""
    width, rows, points = len(norm), len(generator), len(offsets) // 3
    outs = output.shape[1] // width
    # rows = groups * (C^2 + in * out), width = groups * C,
    # points = groups * in.
    groups = width**2 // max(rows - outs * points, 1)
    sizes = MixingSizes(
        groups, width // max(groups, 1), points // max(groups, 1), outs
    )
    if (sizes.rows, sizes.groups * sizes.in_points) != (rows, points):
        raise ValueError(
            f'no layout of groups and points has {rows} generator rows, '
            f'{points} points and {width} channels'
        )
    return sizes


def _convert(
    state_dict: dict[str, Tensor],
    table: dict[str, _Entry],
    layout: _Layout,
    to_ours: bool,
) -> dict[str, Tensor]:
    """Rename all keys but the backbone's, and change the layouts."""
    converted = {}
    for key, tensor in state_dict.items():
        entry = table.get(key, _Entry(key))
        converted[entry.key] = layout.change(tensor, entry, to_ours)
    return converted
