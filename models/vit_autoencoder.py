"""The vision transformer (Dosovitskiy et al. 2021, ICLR) as a segmenter: MONAI's auto-encoder."""

from __future__ import annotations

from monai.networks.nets.vitautoenc import ViTAutoEnc
from torch import Tensor, nn

from models.transformers import cut_idle, heads


class ViTSegmenter(nn.Module):
    """(N, in_channels, *size) -> (N, classes, *size), each side a multiple of `patch`; MOD's backbone "ViT".

    Tokens of `patch`³ voxels, `hidden` wide, through `layers` transformer layers and a layer norm, then two transposed
    convolutions (to 16 channels, then to the classes) enlarge them by √patch each, with nothing between them.

    Departs: MONAI's network gives the layers' states beside the image, of which nothing here is made; and its norms for
    cross attention, which nothing calls, are cut (MOD prints no counts).
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        size: tuple[int, int, int],
        hidden: int = 768,
        patch: int = 16,
        layers: int = 12,
    ) -> None:
        super().__init__()
        self.net: nn.Module = ViTAutoEnc(
            in_channels,
            size,
            patch_size=(patch, patch, patch),
            out_channels=classes,
            hidden_size=hidden,
            mlp_dim=4 * hidden,
            num_layers=layers,
            num_heads=heads(hidden),
        )
        cut_idle(self.net.get_submodule("blocks").children())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)[0]
        return logits
