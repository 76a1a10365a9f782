"""Decoders alone, to measure: AdaMixer, LORS, and LORS as its paper has it."""

from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..nn import AdaptiveMixing
from ..nn.mixing import adaptive_mixing_plain
from ..nn.mixing_matrices import CastOnce, generate_mixing_plain

LORS = dict(
    groups=2,
    in_points=64,
    lors_adaptive=dict(rank=16, terms=[1, 1, 2, 2, 3, 3]),
    lors_static=dict(rank=8),
)


class DecoderAlone(nn.Module):
    """A decoder with the feature maps that it reads, called with queries.

    The maps are parameters: they get gradients, as a neck's would, and their
    memory is not the decoder's.

    Args:
        batch: Number of images.
        shape: Height and width of an image, multiples of 32.
        **kwargs: Options of :class:`AdaMixerDecoder`.
    """

    def __init__(
        self, batch: int, shape: tuple[int, int], **kwargs: Any
    ) -> None:
        super().__init__()
        with DefaultScope.overwrite_default_scope('mmdet'):
            self.decoder = MODELS.build(
                dict(type='mmlowrank.AdaMixerDecoder', **kwargs)
            )
            self.queries = MODELS.build(dict(type='mmlowrank.AdaMixerQueries'))
        self.queries.content.requires_grad_(False)
        self.shapes = [shape] * batch
        height, width = shape
        self.maps = nn.ParameterList(
            torch.randn(batch, 256, height // stride, width // stride)
            for stride in self.decoder.strides
        )

    def forward(self, content: Tensor) -> list[Tensor]:
        """Return logits and boxes of all stages.

        Args:
            content: (batch, queries, 256).
        """
        xyzr, _ = self.queries(self.shapes)
        xyzr = xyzr[:, :1].expand(-1, content.shape[1], -1)
        outputs = self.decoder(list(self.maps), xyzr, content)
        return [tensor for output in outputs for tensor in output]


def cat_and_sum(model: nn.Module) -> nn.Module:
    """Make LORS form its weights as figures 2 and 3 of its paper do.

    For comparison only: every private weight is formed, concatenated with
    the shared one and summed, under autograd. Returns the model.
    """
    for module in model.modules():
        if isinstance(module, AdaptiveMixing):
            module.merge_at_eval = False
            module._mix = _CatAndSum(module)
    return model


class _CatAndSum:
    def __init__(self, mixing: AdaptiveMixing) -> None:
        self.mixing = mixing

    def __call__(
        self, x: Tensor, query: Tensor, stage: int, cast: CastOnce
    ) -> Tensor:
        generator, output = self.mixing.generator, self.mixing.output
        channel, spatial = generate_mixing_plain(
            query, *generator.tensors(query, stage, cast), generator.sizes
        )
        return adaptive_mixing_plain(
            x, channel, spatial, *output.tensors(stage), eps=1e-5
        )
