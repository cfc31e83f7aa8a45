"""The weights that a study's student begins with, whoever trains it: `python -m study.start RUN` writes them down.

A process of its own, since the coordinator that sends them to the sites never imports torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from imaging.atomic import write_bytes
from study.baselines import START, Start
from study.draws import derived
from study.envelope import Arrays, pack
from study.networks import build
from study.plan import Study
from study.run import read_study_of


def first_student(study: Study) -> nn.Module:
    """The student with the weights that the study's seed begins with, in any scheme."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(study.seed, "student"))
        return build(study.student.model, study.student.options, study.task, study.preprocess, fresh=True)


def arrays_of(network: nn.Module) -> Arrays:
    """A network's whole state as plain arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def main(run_folder: Path) -> None:
    network = first_student(read_study_of(run_folder))
    learned = [name for name, _ in network.named_parameters()]
    header = Start(learned=learned, parameters=sum(weight.numel() for weight in network.parameters()))
    write_bytes(run_folder / START, pack(header, arrays_of(network)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
