"""INT8 of the networks inside an exported graph, those inside its loops included.

NNCF does not look into a Loop, so the body of every loop is quantised as a graph of its own, on the values that really
enter it, and put back. Only what lies between convolutions is quantised: resize, residual, thresholds and score stay
in float. So do the convolutions whose rounding errors are large beside the residuals of normal images: the first, which
reads the image, depthwise ones, whose channels differ in range, and the first half of a frozen network.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import nncf
import numpy as np
import openvino as ov
import openvino.opset15 as ops
from openvino.op.util import MergedInputDescription

from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.graph import FP32, loops_of

from .walk import reached, sources_of, takers_of

CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")
#: In the names of a frozen network's weights.
FROZEN = "features.network"
#: What gates consist of: they are computed in float anyway, so rounding between them costs time and accuracy.
GATES = ["Elu", "Sigmoid", "Multiply"]


class Quantized(NamedTuple):
    """Convolutions of a graph or a loop's body: how many there are, and the names of those in INT8."""

    where: str
    convolutions: int
    quantized: list[str]


def _convolutions(model: ov.Model) -> list[ov.Node]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() in CONVOLUTIONS]


def _around_loops(step: Callable[[ov.Node], list[ov.Node]]) -> Callable[[ov.Node], list[ov.Node]]:
    """A step that ends at loops, whose bodies are quantised by themselves."""
    return lambda node: [] if node.get_type_name() == "Loop" else step(node)


def _give_names(models: list[ov.Model]) -> None:
    """Let every node have a name of its own, by which NNCF and copies of a graph know it."""
    names: set[str] = set()
    for node in (node for model in models for node in model.get_ordered_ops()):
        if node.get_friendly_name() in names:
            node.set_friendly_name(f"{node.get_friendly_name()}_{len(names)}")
        names.add(node.get_friendly_name())


def _outside(model: ov.Model) -> list[str]:
    """Names of all that does not lie between two convolutions."""
    convolutions = _convolutions(model)
    after, before = (reached(convolutions, _around_loops(step)) for step in (takers_of, sources_of))
    inside = after.keys() & before.keys()
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_instance_id() not in inside and node.get_type_name() not in {"Constant", "Parameter", "Result"}
    ]


def _delicate(model: ov.Model) -> list[str]:
    """Names of the convolutions that stay in float.

    Depthwise ones, those that read the image, which nothing else comes before, and the first half of a frozen network.
    """
    convolutions = _convolutions(model)
    images = {node.get_instance_id() for node in model.get_parameters()}
    every = images | {node.get_instance_id() for node in convolutions}
    frozen = [node for node in convolutions if FROZEN in _weights_of(node)]
    early = {node.get_instance_id() for node in frozen[: len(frozen) // 2]}
    return [
        node.get_friendly_name()
        for node in convolutions
        if node.get_type_name() == "GroupConvolution"
        or node.get_instance_id() in early
        or reached([node], _around_loops(sources_of)).keys() & every == images | {node.get_instance_id()}
    ]


def _weights_of(node: ov.Node) -> str:
    """Name of a convolution's weights in the torch model, or of what they are computed from."""
    source = node.input_value(1).get_node()
    while source.get_input_size():
        source = source.input_value(0).get_node()
    name: str = source.get_friendly_name()
    return name


def _leave_in_float(model: ov.Model, outside: set[str]) -> None:
    """Let nodes outside read values before rounding; NNCF rounds them for all that read them."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            for taker in node.output(0).get_target_inputs():
                if taker.get_node().get_friendly_name() in outside or taker.get_node().get_type_name() == "Result":
                    taker.replace_source_output(node.input_value(0))


def _quantize(
    model: ov.Model, samples: list[Any], where: str, delicate: Sequence[str] = ()
) -> tuple[ov.Model, Quantized]:
    convolutions = _convolutions(model)
    outside = _outside(model)
    if convolutions and samples:  # a loop that no image enters stays in float
        model = nncf.quantize(
            model,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.MIXED,  # gates and ELU have negative values, too
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=[*outside, *delicate], types=GATES, validate=False),
        )
    _leave_in_float(model, set(outside))
    quantized = [
        node.get_friendly_name()
        for node in _convolutions(model)
        if node.input_value(0).get_node().get_type_name() == "FakeQuantize"
    ]
    return model, Quantized(where, len(convolutions), quantized)


def _entering(model: ov.Model, loop: ov.Node, images: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Values that enter a loop's body, one iteration an image: the first, the second ... last, the first again."""
    before = ov.Model([ops.result(value) for value in loop.input_values()[1:]], model.get_parameters(), "before")
    body = loop.get_function()
    run_before, run_body = (new_core().compile_model(part, "CPU", FP32) for part in (before, body))
    counter, condition = loop.get_special_body_ports()
    wanted = 0
    for image in images:
        at_entry = run_before(image)
        goes_on, *values = (at_entry[output].copy() for output in run_before.outputs)
        entered: list[tuple[np.ndarray, ...]] = []
        while np.all(goes_on):
            arguments: list[Any] = [None] * len(body.get_parameters())
            if counter >= 0:
                arguments[counter] = np.full(body.get_parameters()[counter].get_output_shape(0), len(entered), np.int64)
            for port in loop.get_input_descriptions():
                arguments[port.body_parameter_index] = values[port.input_index - 2]
            entered.append(tuple(arguments))
            result = run_body(arguments)
            results = [result[output].copy() for output in run_body.outputs]
            goes_on = results[condition]
            for port in loop.get_input_descriptions():
                if isinstance(port, MergedInputDescription):
                    values[port.input_index - 2] = results[port.body_value_index]
        if entered:
            yield entered[wanted % len(entered)]
            wanted += 1


def quantize(model: ov.Model, images: list[np.ndarray]) -> tuple[ov.Model, list[Quantized]]:
    """Quantise the convolutions of a graph and of its loops to INT8.

    Args:
        model: Exported graph in FP32.
        images: Normal training images ``(1, 3, H, W)`` in [0, 1], as the graph takes them.

    Returns:
        The quantised graph, and what was quantised in it and in each of its loops.

    Raises:
        ValueError: If nothing could be quantised.
    """
    _give_names([model, *(loop.get_function() for loop in loops_of(model))])
    # copies hold nothing but the graph: conversion leaves consumers behind that NNCF stumbles over
    outside = model.clone()
    bodies = [
        _quantize(loop.get_function().clone(), list(_entering(model, loop, images)), loop.get_friendly_name())
        for loop in loops_of(model)
    ]
    model, found_outside = _quantize(outside, images, "outside loops", _delicate(outside))
    for loop, (body, _) in zip(loops_of(model), bodies, strict=True):
        loop.set_function(body)
    model.validate_nodes_and_infer_types()
    done = [found_outside, *(found for _, found in bodies)]
    if not any(found.quantized for found in done):
        msg = "INT8: no convolution could be quantised; export this model without compression"
        raise ValueError(msg)
    return model, done


def compress_weights(model: ov.Model) -> ov.Model:
    """Compress the weights of a graph and of its loops to 8 bits; it computes in float as before."""
    model = model.clone()
    for loop in loops_of(model):
        loop.set_function(nncf.compress_weights(loop.get_function().clone()))
    return nncf.compress_weights(model)
