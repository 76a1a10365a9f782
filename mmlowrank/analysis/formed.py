"""The plain formulation of low-rank adapters, for comparison only."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import LoRandAdapter, LowRankAdapter


def form_weights(backbone: nn.Module) -> None:
    """Make low-rank adapters form W in each forward, as public code does.

    For comparison only: beside a stock trunk, the plain formulation of
    LoRand and E3VA. 'W formed' means that a projection is one dense product
    with W = sum_i P_i^T K_i Q_i or W = s_1 t_1 + s_2 t_2, and that autograd
    keeps all it wants, the hidden vector and its GELU included. LoRand
    forms W of both projections. E3VA forms that of the down projection: the
    up projection stays a product with s into a code and one product a stage,
    see :mod:`..tuners.highway`.
    """
    for module in backbone.modules():
        if isinstance(module, LoRandAdapter):
            module.forward = _FormedLoRand(module)
        elif isinstance(module, LowRankAdapter):
            module.code = _FormedCode(module)


class _FormedLoRand:
    def __init__(self, layer: LoRandAdapter) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        own = self.layer
        down = (own.down_P.mT @ own.K @ own.down_Q).sum(0)
        up = (own.up_P.mT @ own.K @ own.up_Q).sum(0)
        h = F.gelu(F.linear(x, down.t(), own.down_bias))
        return x + F.linear(h, up.t(), own.up_bias)


class _FormedCode:
    def __init__(self, layer: LowRankAdapter) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        own = self.layer
        down = own.down_s @ own.down_t
        return F.gelu(F.linear(x, down.t(), own.down_bias)) @ own.up_s
