"""Milliseconds a training step (forward, backward, Adam) of each network takes on this machine.

    python benchmarks/network_time.py --threads 1 --batch 8 --sides 96 128 enet espnet deeplabv3plus:resnet18

Without names: the students, and the small teachers on three encoders. After two to warm up, the best step counts.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

import models

ENCODERS = ("resnet18", "tu-mobilenetv3_small_100", "tu-lcnet_050")
WARM_UP = 2


def best_step_ms(net: nn.Module, batch: int, side: int, steps: int) -> float:
    """The fastest of some steps, in milliseconds."""
    images, masks = torch.randn(batch, 1, side, side), torch.randint(0, 2, (batch, side, side))
    optimiser = torch.optim.Adam(net.parameters())
    times = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(images), masks))
        optimiser.step()
        times.append(time.perf_counter() - start)
    return 1000 * min(times[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="network, or network:encoder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 128])
    parser.add_argument("--steps", type=int, default=10)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    small = [name for name in models.names("teacher", dims=2) if models.spec(name).with_encoder]
    everything = models.names("student", dims=2) + [f"{name}:{encoder}" for encoder in ENCODERS for name in small]
    print("network", "parameters", *(f"{side}x{side}_ms" for side in chosen.sides), sep="\t")
    for label in chosen.names or everything:
        name, _, encoder = label.partition(":")
        net = models.create(name, 1, 2, encoder=encoder) if encoder else models.create(name)
        times = [f"{best_step_ms(net, chosen.batch, side, chosen.steps):.0f}" for side in chosen.sides]
        print(label, sum(p.numel() for p in net.parameters()), *times, sep="\t", flush=True)


if __name__ == "__main__":
    main()
