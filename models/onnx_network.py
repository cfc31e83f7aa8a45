"""A segmentation model of any framework: an ONNX file behind the interface of a registered network, on the CPU."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imaging.errors import InputError
from models.contents import ONNX
from models.network import Network

TRIED = (256, 256)
"""Size of the slices that a file is tried with where neither it nor a study says one."""
ROUNDING = 1e-3
"""How far probabilities may be from a sum of 1: of models that compute in half precision."""


class OnnxNetwork(Network):
    """The model of an ONNX file: images (N, 1, H, W) float32 to logits (N, classes, H, W); it has no taps.

    Its output may have another height and width, and is resized to the slice bilinearly. It may be probabilities: then
    their logarithms are the logits. A file with a batch of 1 is asked slice by slice. The file is tried on noise at
    once, with `classes` and slices of `size` where a study says them.

    Raises: InputError unless it is such a file.
    """

    body: Runner

    def __init__(self, path: Path, *, classes: int | None = None, size: tuple[int, int] | None = None) -> None:
        content, self.weight_count = _content(path)
        runner = Runner(_session(content, path), path)
        super().__init__(runner, name=ONNX, in_channels=1, taps={})
        self.weights_hash = hashlib.sha256(content).hexdigest()
        """SHA-256 of the file's content: answers under one hash come from one teacher."""
        self.size = tuple(given or side for given, side in zip(runner.sides, size or TRIED, strict=True))
        if size and self.size != size:
            ours, theirs = (" × ".join(map(str, one)) for one in (size, self.size))
            what = f"the model takes slices of {theirs}, the study prepares slices of {ours}"
            fix = "export it with dynamic height and width, or for that size"
            raise InputError(what, where=path, fix=fix)
        tried = runner.tried(self.size)
        self.classes = tried.shape[1]
        if classes and self.classes != classes:
            what = f"the model tells {self.classes} classes, the study has {classes}, the background included"
            last = "export it with the classes in the second place: (N, classes, H, W)"
            fix = last if tried.shape[-1] == classes else "use a model of the study's classes, a channel each"
            raise InputError(what, where=path, fix=fix)
        runner.gives = gives(tried)

    @property
    def gives(self) -> Literal["logits", "probabilities"]:
        """What the file itself gives; this network gives logits either way."""
        return self.body.gives


class Runner(nn.Module):
    """A session of ONNX Runtime as a module; InputError unless the file has one input and output of the right kind."""

    def __init__(self, session: onnxruntime.InferenceSession, path: Path) -> None:
        super().__init__()
        self.session, self.path = session, path
        self.gives: Literal["logits", "probabilities"] = "logits"
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # what asks a network where it lies asks this
        source = _only(session.get_inputs(), "input", path)
        batch, channels, *sides = [side if isinstance(side, int) else None for side in source.shape] or [None, None]
        if source.type != "tensor(float)" or len(sides) != 2 or channels not in (None, 1) or batch not in (None, 1):
            what = f"the model takes {_said(source)}, not slices (N, 1, H, W) in float32"
            fix = "export it for one channel, slices first, with a dynamic batch or a batch of 1"
            raise InputError(what, where=path, fix=fix)
        target = _only(session.get_outputs(), "output", path)
        if target.type not in ("tensor(float)", "tensor(float16)", "tensor(double)"):
            what = f"the model gives {_said(target)}, not logits or probabilities (N, classes, H, W)"
            raise InputError(what, where=path, fix="export it without its last step, which picks a class")
        self.name, self.one_by_one = source.name, batch == 1
        self.sides = (sides[0], sides[1])
        """Height and width, None where the file leaves them free."""

    def forward(self, images: Tensor) -> Tensor:
        raw = self.run(images.cpu())
        if not raw.isfinite().all():
            raise InputError("the model gave NaN or infinity", where=self.path, fix="export it again, in float32")
        if raw.shape[2:] != images.shape[2:]:
            raw = F.interpolate(raw, images.shape[2:], mode="bilinear", align_corners=False)
        if self.gives == "probabilities":
            raw = raw.clamp_min(torch.finfo(raw.dtype).tiny).log()
        return raw.to(images.device)

    def run(self, images: Tensor) -> Tensor:
        """What the file itself gives, (N, C, H', W') float32."""
        pieces = [images[n : n + 1] for n in range(len(images))] if self.one_by_one else [images]
        return torch.cat(
            [torch.from_numpy(self.session.run(None, {self.name: one.numpy()})[0]).float() for one in pieces]
        )

    def tried(self, size: tuple[int, ...]) -> Tensor:
        """What it gives for two slices of noise; InputError unless that is finite and of the right shape."""
        noise = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 1, *size)).astype(np.float32))
        try:
            raw = self.run(noise)
        except Exception as error:  # ONNX Runtime has a class of its own for each cause, below RuntimeError or not
            what = f"the model cannot be run on slices of {size[0]} × {size[1]}"
            fix = "export it for that size, with a dynamic batch or a batch of 1"
            raise InputError(what, where=_place(self.path, error), fix=fix) from error
        if raw.ndim != 4 or len(raw) != 2 or raw.shape[1] < 2:
            what = f"the model gives {tuple(raw.shape)} for two slices, not (2, classes, H, W)"
            fix = "export it with a channel for each class, the background's first"
            raise InputError(what, where=self.path, fix=fix)
        if not raw.isfinite().all():
            raise InputError("the model gives NaN or infinity for noise", where=self.path, fix="export it in float32")
        return raw


def gives(raw: Tensor) -> Literal["logits", "probabilities"]:
    """Probabilities where all values (N, C, H, W) lie in [0, 1] and add up to 1 over classes, else logits."""
    within = raw.min() >= 0 and raw.max() <= 1
    return "probabilities" if within and (raw.sum(1) - 1).abs().max() < ROUNDING else "logits"


def _content(path: Path) -> tuple[bytes, int]:
    """The whole model, weights that lie in a file beside it included, and how many numbers they are."""
    try:
        model = onnx.load(path)
        content: bytes = model.SerializeToString(deterministic=True)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix="name an ONNX file") from error
    except Exception as error:  # protobuf's and onnx's own classes, for a damaged file and for one above 2 GiB
        fix = "export the model again, in one file below 2 GiB or with its weights' file beside it"
        raise InputError("is no ONNX model that can be read", where=_place(path, error), fix=fix) from error
    weights = [one for one in model.graph.initializer if one.data_type != onnx.TensorProto.INT64]  # those are shapes
    return content, sum(math.prod(one.dims) for one in weights)


def _session(content: bytes, path: Path) -> onnxruntime.InferenceSession:
    """On as many threads as torch has, so that a site's `threads` holds for both."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3  # errors: what can be done about warnings is the exporter's
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        fix = f"export it for ONNX Runtime {onnxruntime.__version__}, without operators of your own"
        raise InputError("the model cannot be loaded", where=_place(path, error), fix=fix) from error


def _only(ends: list[Any], kind: str, path: Path) -> Any:
    if len(ends) != 1:
        names = ", ".join(end.name for end in ends) or "none"
        what, fix = f"the model has {len(ends)} {kind}s ({names}), not one", f"export it with one {kind} alone"
        raise InputError(what, where=path, fix=fix)
    return ends[0]


def _said(end: Any) -> str:
    shape = ", ".join(str(side) if isinstance(side, int) else "free" for side in end.shape)
    return f"({shape}) of {end.type.removeprefix('tensor(').removesuffix(')')}"


def _place(path: Path, error: Exception) -> str:
    """The file, and the library's own words, which may name files: of an error only its place stays at a site."""
    return f"{path} ({(str(error).strip() or type(error).__name__).splitlines()[0][:200]})"
