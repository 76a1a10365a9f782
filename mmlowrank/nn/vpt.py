"""VPT: trainable prompt tokens among the tokens of a frozen ViT.

Paper: "Visual Prompt Tuning", ECCV 2022, section 3.2. Shallow: T prompts
enter the first layer and pass through all (equations 4 to 6). Deep: each
layer gets T prompts of its own, and what becomes of them is dropped
(equations 7 and 8). They stand behind the class token and are drawn
Xavier-uniform, with the fan of the patch embedding, as in section 4.
"""

import math

import torch
from torch import Tensor, nn


class Prompts(nn.Module):
    """Prompt tokens of one or all layers.

    Args:
        embed_dims: Width d of the tokens.
        tokens: T.
        layers: How many layers have prompts of their own.
        patch_values: Numbers in an image patch, for the fan.

    Attributes:
        prompts: (layers, tokens, embed_dims).

    Raises:
        ValueError: If there are no tokens.
    """

    def __init__(
        self, embed_dims: int, tokens: int, layers: int, patch_values: int
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f'VPT needs tokens >= 1, got {tokens}')
        self.bound = math.sqrt(6 / (patch_values + embed_dims))
        self.prompts = nn.Parameter(torch.empty(layers, tokens, embed_dims))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the prompts."""
        nn.init.uniform_(self.prompts, -self.bound, self.bound)

    def forward(self, layer: int, batch: int) -> Tensor:
        """Return the prompts of one layer: (batch, tokens, embed_dims)."""
        # Not a view of a leaf: without gradients it would claim to want one
        # all the same, which module trackers trip over.
        return self.prompts[layer].clone().expand(batch, -1, -1)
