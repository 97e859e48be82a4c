"""Weights that half precision holds exactly are stored in half the bytes."""

import numpy as np
import openvino as ov
import openvino.opset15 as ops

from anomalib_i3ad.deploy.graph import loops_of

#: Numbers from which on a constant is worth a conversion.
LARGE = 10_000


def store_small(model: ov.Model) -> ov.Model:
    """Store large constants as FP16 where that changes no number; changes the model in place.

    Runtimes convert them when they load the graph.
    """
    for graph in (model, *(loop.get_function() for loop in loops_of(model))):
        for node in graph.get_ordered_ops():
            if node.get_type_name() != "Constant" or node.get_output_element_type(0) != ov.Type.f32:
                continue
            values = node.data
            if values.size < LARGE or np.abs(values).max() > np.finfo(np.float16).max:
                continue
            halves = values.astype(np.float16)
            if np.array_equal(halves, values):
                takers = node.output(0).get_target_inputs()
                stored = ops.convert(ops.constant(halves, name=node.get_friendly_name()), "f32")
                for taker in takers:
                    taker.replace_source_output(stored.output(0))
    return model
