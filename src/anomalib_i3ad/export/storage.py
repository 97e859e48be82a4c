"""Weights that one byte or two hold exactly are stored in these."""

from collections.abc import Iterator

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import torch

from anomalib_i3ad.components.rounding import column_steps

#: Numbers from which on a constant is worth a conversion, and a division.
LARGE, VERY_LARGE = 4_000, 50_000


def _graphs(model: ov.Model) -> Iterator[ov.Model]:
    """A graph, and those in its loops and branches."""
    yield model
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Loop":
            yield node.get_function()
        elif node.get_type_name() == "If":
            yield from (node.get_function(branch) for branch in range(2))


def _in_half(values: np.ndarray) -> ov.Node | None:
    halves = values.astype(np.float16)
    return ops.convert(ops.constant(halves), "f32") if np.array_equal(halves, values) else None


def _in_eight_bits(values: np.ndarray) -> ov.Node | None:
    """Of several matrices whose columns are -127 to 127 times a power of two, of each column its own.

    A product with one alone would be computed in 8 bits.
    """
    if values.ndim < 3 or values.size < VERY_LARGE:
        return None
    step = column_steps(torch.tensor(values)).numpy()
    units = np.round(values / step).astype(np.int8)
    if not np.array_equal(units * step, values):
        return None
    # multiplied, they would be taken for quantised, and the file could no longer be halved
    return ops.divide(ops.convert(ops.constant(units), "f32"), ops.constant(1 / step))


def store_small(model: ov.Model) -> ov.Model:
    """Store large constants in 8 bits or FP16 where that changes no number; changes the model in place.

    Runtimes convert them when they load the graph.
    """
    for graph in _graphs(model):
        for node in graph.get_ordered_ops():
            if node.get_type_name() != "Constant" or node.get_output_element_type(0) != ov.Type.f32:
                continue
            values = node.data
            if values.size < LARGE or np.abs(values).max() > np.finfo(np.float16).max:
                continue
            stored = _in_eight_bits(values) or _in_half(values)
            if stored is not None:
                for taker in node.output(0).get_target_inputs():
                    taker.replace_source_output(stored.output(0))
    return model
