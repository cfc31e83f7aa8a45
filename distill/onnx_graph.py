"""A student as one ONNX graph, normalisation inside; and the same with convolutions in 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.compose import add_prefix, merge_models
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static
from torch import nn

from distill.normalise import normalise
from imaging.errors import InputError
from imaging.preprocess import Preprocess
from models.mamba import TriMamba
from study.exported import BETWEEN, INPUT, OUTPUT

QUANTISED = ["Conv", "Clip"]
"""Clip is MobileNetV2's activation, which folds into the convolution before it.

Other nodes (PReLU, sums, concatenations) in 8 bits as well gave no speed (measured) and cost ESPNet up to 1.2 points of
Dice instead of at most 0.4.
"""
CALIBRATION_BATCH = 8


class Slices(CalibrationDataReader):  # type: ignore[misc]
    """Prepared slices (N, c, H, W) or patches, some at a time."""

    def __init__(self, images: NDArray[np.float16]) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH)
        batches = (images[start : start + CALIBRATION_BATCH] for start in starts)
        self._feeds = ({BETWEEN: batch.astype(np.float32)} for batch in batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._feeds, None)


def network_graph(network: nn.Module, shape: tuple[int, ...]) -> ModelProto:
    """Prepared slices (batch, c, H, W), or patches, to logits (batch, C, H, W), float32, any batch.

    `shape` is that of one of them, channels first.
    Raises: InputError for a network whose graph would unroll a scan (SegMamba).
    """
    if any(isinstance(module, TriMamba) for module in network.modules()):
        what = "a network that scans its tokens one after another has no ONNX graph of a size that is of use"
        raise InputError(what, fix="use the student as it is, `student.safetensors`, or export one of another network")
    return _graph(network, shape, BETWEEN, OUTPUT)


def quantised(graph: ModelProto, images: NDArray[np.float16]) -> ModelProto:
    """The network's graph with convolutions in 8 bits, their ranges taken from prepared slices (N, c, H, W) or patches.

    Weights have a scale a channel, and 7 bits: with 8, sums overflow on processors without VNNI (older than some 2019).
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, quick = Path(folder) / "plain.onnx", Path(folder) / "quick.onnx"
        quant_pre_process(graph, plain)  # folds batch norms into convolutions
        quantize_static(
            plain,
            quick,
            Slices(images),
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(quick)


def finished(graph: ModelProto, plan: Preprocess, channels: int, properties: Mapping[str, str]) -> ModelProto:
    """The graph as it is shipped, with its metadata.

    Of slices: intensities of a whole scan's slices (batch, c, H, W), NaN beyond the scan, to logits. Of patches: the
    network alone, since what is normalised is the whole scan, and never goes through it at once.
    """
    whole = graph if plan.patch else _with_normalisation(graph, plan, channels)
    whole.producer_name = "preceptor"
    del whole.metadata_props[:]
    opset = next(one.version for one in graph.opset_import if not one.domain)
    del whole.opset_import[:]  # the quantiser names six domains more, of which it uses none
    whole.opset_import.append(onnx.helper.make_opsetid("", opset))
    onnx.helper.set_model_props(whole, dict(properties))
    onnx.checker.check_model(whole)
    return whole


def _with_normalisation(graph: ModelProto, plan: Preprocess, channels: int) -> ModelProto:
    first = _graph(normalise(plan), (channels, *plan.size), INPUT, BETWEEN)
    first.ir_version = graph.ir_version
    first = add_prefix(first, "normalise/", rename_inputs=False, rename_outputs=False)
    return merge_models(first, graph, [(BETWEEN, BETWEEN)], producer_name="preceptor")


def _graph(module: nn.Module, shape: tuple[int, ...], takes: str, gives: str) -> ModelProto:
    """The module as a graph of one input (batch, *shape) and one output, without the exporter's notes.

    Those hold the paths of the source files on this machine.
    """
    program = torch.onnx.export(
        module.eval(),
        (torch.randn(2, *shape),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=[takes],
        output_names=[gives],
        verbose=False,
    )
    if program is None:
        raise InputError("torch exported no ONNX program", fix="report it with the student's `student.json`")
    graph: ModelProto = program.model_proto
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in (*graph.graph.input, *graph.graph.output):
        tensor.ClearField("metadata_props")
    return graph
