"""Base of the tuners that change what a stock layer computes, linearly.

Each changed layer has a stock layer that computes the same, so these methods
merge. One case needs care: Swin's patch merging ends in a linear layer
without a bias, and the methods shift its output. A stock checkpoint has no
place for that shift f behind ``reduction``; it is moved in front of it, into
the bias of the norm, as the smallest d with W' d = f. W' has half as many
rows as columns, so there is one, and the result is exact.
"""

import torch
from torch import Tensor, nn

from ..nn.swapped import Swapped
from .anatomy import Stage, transformer_stages
from .base import CannotMerge, Tuner


class SwappingTuner(Tuner):
    """Base of RLRR and SSF.

    A single output norm (of a classifier) gets a scale and a shift like the
    norms of the blocks. Where there are several (dense prediction), they
    train themselves: no checkpoint has values for them, and a norm at its
    start with a scale and a shift is a norm that trains.
    """

    tune_norms = True

    def stages_of(self, backbone: nn.Module) -> list[Stage]:
        """Return the stages that are used."""
        return transformer_stages(backbone, type(self).__name__)

    def trained_stock(self, backbone: nn.Module) -> set[str]:
        norms = self._output_norms(backbone)
        if len(norms) < 2 or not self.tune_norms:
            return set()
        return {
            f'{norm}.{name}'
            for norm in norms
            for name, _ in backbone.get_submodule(norm).named_parameters()
        }

    def output_norm(self, backbone: nn.Module) -> nn.Module | None:
        """Return the single output norm, which gets an SSF, if there is."""
        norms = self._output_norms(backbone)
        if len(norms) != 1 or not self.tune_norms:
            return None
        return backbone.get_submodule(norms[0])

    @torch.no_grad()
    def merge(self) -> dict[str, Tensor]:
        """Return the stock state dict that computes the same.

        Raises:
            CannotMerge: If a shift has no place in the stock backbone.
        """
        state_dict = self.stock_state_dict()
        shifts = {}
        for path, layer in self.backbone.named_modules():
            if not isinstance(layer, Swapped):
                continue
            weight, bias = layer.effective()
            state_dict[f'{path}.weight'] = weight
            if f'{path}.bias' in state_dict:
                state_dict[f'{path}.bias'] = bias
            elif bias.any():
                shifts[path] = weight, bias
        for path, (weight, shift) in shifts.items():
            name = f'{self._norm_before(path)}.bias'
            moved = _moved_in_front(weight, shift)
            if moved is None:
                raise CannotMerge(
                    f'{type(self).__name__} cannot be merged into a stock '
                    f'checkpoint, because {path} has no bias and its '
                    'rescaled weight does not reach the shift'
                )
            state_dict[name] = state_dict[name] + moved
        return state_dict

    def _output_norms(self, backbone: nn.Module) -> list[str]:
        return [s.norm for s in self.stages_of(backbone) if s.norm]

    def _norm_before(self, path: str) -> str:
        """Return the name of the norm that feeds a layer without bias."""
        layer = self.backbone.get_submodule(path)
        names = {id(m): name for name, m in self.backbone.named_modules()}
        for stage in self.stages_of(self.backbone):
            merging = stage.downsample
            if merging is None or merging.reduction is not layer:
                continue
            if getattr(merging.norm, 'bias', None) is not None:
                return names[id(merging.norm)]
        raise CannotMerge(
            f'{type(self).__name__} cannot be merged into a stock '
            f'checkpoint, because {path} has no bias that could take its '
            'shift, and no norm with a bias stands before it. Build the '
            'backbone with a bias there (e.g. qkv_bias=True) or ship the '
            'tuned model with mmlowrank'
        )


def _moved_in_front(weight: Tensor, shift: Tensor) -> Tensor | None:
    """Return the smallest d with ``weight d = shift``, or None.

    In float64, because d is as large as the weight is badly conditioned.

    Args:
        weight: (out, in), out <= in.
        shift: (out,).
    """
    wide = weight.double()
    q, r = torch.linalg.qr(wide.mT)
    solution = q @ torch.linalg.solve_triangular(
        r.mT, shift.double().unsqueeze(1), upper=False
    )
    error = (wide @ solution - shift.double().unsqueeze(1)).abs().max()
    # Not <= is also where r is singular and the error is nan.
    if not error <= 1e-9 * shift.abs().max():
        return None
    return solution.squeeze(1).to(shift.dtype)
