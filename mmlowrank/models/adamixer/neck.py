"""The neck of AdaMixer."""

from collections.abc import Sequence

from torch import Tensor, nn


class AdaMixerNeck(nn.Module):
    """A 1x1 convolution for each map, and one GroupNorm for all of them.

    Not mmdet's ChannelMapper, which has a norm for each map and drops the
    biases of the convolutions.

    Args:
        in_channels: Channels of the backbone's maps.
        out_channels: Channels of the neck's maps.
        num_groups: Groups of the GroupNorm.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, out_channels, 1) for channels in in_channels
        )
        for conv in self.convs:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        self.norm = nn.GroupNorm(num_groups, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map (B, C_l, H_l, W_l) to (B, out_channels, H_l, W_l).

        Raises:
            ValueError: If the backbone gives another number of maps.
        """
        if len(maps) != len(self.convs):
            raise ValueError(
                f'the backbone gives {len(maps)} maps, but the neck has '
                f'in_channels for {len(self.convs)}. Change out_indices of '
                'the backbone or in_channels of the neck'
            )
        return [
            self.norm(conv(x))
            for conv, x in zip(self.convs, maps, strict=True)
        ]
