"""Teachers on an encoder of segmentation-models-pytorch (smp), from ones a laptop trains to the largest there are.

They are networks of the same families as the paper's, not those of its Table 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import get_encoder, get_encoder_names
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from imaging.errors import InputError
from models.layers import Segmenter


def deeplabv3plus(in_channels: int, classes: int, *, encoder: str, pretrained: bool = False) -> nn.Module:
    """DeepLabV3+ at stride 16, its decoder 256 wide at 1/4 of the size; H and W are multiples of 16."""
    with building("deeplabv3plus", encoder):
        net: nn.Module = smp.DeepLabV3Plus(
            encoder, encoder_weights=weights(encoder, pretrained), in_channels=in_channels, classes=classes
        )
    return net


def pspnet(in_channels: int, classes: int, *, encoder: str, pretrained: bool = False) -> nn.Module:
    """PSPNet on the encoder's first three stages; H and W are multiples of 8.

    Departs: smp keeps the later stages as dead weight (10.5 of 11.3 million parameters with resnet18); they are cut.
    """
    with building("pspnet", encoder):
        net: nn.Module = smp.PSPNet(
            encoder, encoder_weights=weights(encoder, pretrained), in_channels=in_channels, classes=classes
        )
    cut_idle(net, torch.zeros(1, in_channels, 64, 64))
    return net


def fcn(in_channels: int, classes: int, *, encoder: str, pretrained: bool = False) -> nn.Module:
    """FCN as torchvision's: the encoder dilated to stride 8, a 3×3 and a 1×1 convolution; any H and W."""
    with building("fcn", encoder):
        body = get_encoder(
            encoder, in_channels=in_channels, depth=5, weights=weights(encoder, pretrained), output_stride=8
        )
    return Segmenter(LastStage(body), FCNHead(body.out_channels[-1], classes))


class LastStage(nn.Module):
    """The deepest of an encoder's feature maps."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        deepest: Tensor = self.encoder(x)[-1]
        return deepest


class Nothing(nn.Module):
    """Stands for a module that was cut: hands on its first argument, whatever else it is called with."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


def weights(encoder: str, pretrained: bool) -> str | bool | None:
    """What smp calls ImageNet weights; encoders of timm ("tu-") name theirs themselves."""
    if not pretrained:
        return None
    return True if encoder.startswith("tu-") else "imagenet"


def cut_idle(net: nn.Module, image: Tensor) -> None:
    """Put nothing in place of every module none of whose parameters reach the logits of `image` (1, C, H, W)."""
    parameters = list(net.parameters())
    training = net.training
    with torch.enable_grad():
        gradients: Sequence[Tensor | None] = torch.autograd.grad(net.eval()(image).sum(), parameters, allow_unused=True)
    net.train(training)
    idle = {parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None}
    _cut(net, idle)


def _cut(module: nn.Module, idle: set[nn.Parameter]) -> None:
    for name, child in module.named_children():
        inside = set(child.parameters())
        if inside and inside <= idle:
            setattr(module, name, Nothing())
        else:
            _cut(child, idle)


@contextmanager
def building(network: str, encoder: str) -> Iterator[None]:
    """Say in the user's words why smp cannot build a network on an encoder."""
    try:
        yield
    except OSError as error:  # what huggingface_hub raises offline, and urllib
        raise InputError(
            f"the ImageNet weights of encoder `{encoder}` could not be downloaded",
            fix="connect this machine to the internet once, or leave `pretrained` out",
        ) from error
    except Exception as error:
        known = [*get_encoder_names(), *(f"tu-{name}" for name in timm.list_models())]
        if encoder in known:
            raise InputError(
                f"`{network}` cannot be built on encoder `{encoder}` ({error})", fix='take another, such as "resnet18"'
            ) from error
        near = get_close_matches(encoder, known, n=3) or ["resnet18"]
        raise InputError(f"no encoder is called `{encoder}`", fix=f"did you mean {' or '.join(near)}?") from error
