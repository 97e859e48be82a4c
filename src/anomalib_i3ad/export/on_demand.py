"""Puts details that cost time, such as the reconstruction, into a branch that runs on demand."""

import numpy as np
import openvino as ov
import openvino.opset15 as ops

from anomalib_i3ad.deploy.graph import OUTPUTS

from .walk import reached, sources_of


def on_demand(model: ov.Model) -> ov.Model:
    """Put what only details need into a branch that usually does not run; changes the model in place.

    A branch without a result would not be saved, and a fifth result breaks Model API. So the branch is the body of an
    If through which the score goes, and whose condition is a constant, so that runtimes remove the If.
    :func:`anomalib_i3ad.deploy.graph.with_details` turns it on.

    Args:
        model: Graph whose results are anomalib's four outputs, and after them details ``(N, ...)`` of fixed size
            but for N.
    """
    results = model.get_results()[: len(OUTPUTS)]
    needed = reached([source for result in results for source in sources_of(result)], sources_of)
    for result in model.get_results()[len(OUTPUTS) :]:
        detail = result.input_value(0)
        model.remove_result(result)
        branch = {key: node for key, node in reached([detail.get_node()], sources_of).items() if key not in needed}
        # what the branch shares are constants, copied with it, and what it starts from
        work = [node for node in branch.values() if node.get_type_name() != "Constant"]
        if work:
            _take_aside(results[0], detail, work, needed)
    model.validate_nodes_and_infer_types()
    return model


def _take_aside(passing: ov.Node, detail: ov.Output, work: list[ov.Node], needed: dict[int, ov.Node]) -> None:
    """Replace a detail by an output of an If through which the source of the result ``passing`` goes."""
    score, names, shape = passing.input_value(0), detail.get_names(), detail.get_partial_shape()
    starts: dict[tuple[int, int], tuple[ov.Output, ov.Node]] = {}
    for taker in (taker for node in work for taker in node.inputs()):
        source = taker.get_source_output()
        key = source.get_node().get_instance_id(), source.get_index()
        if key[0] in needed and source.get_node().get_type_name() != "Constant":
            if key not in starts:
                starts[key] = source, ops.parameter(source.get_partial_shape(), source.get_element_type())
            taker.replace_source_output(starts[key][1].output(0))
    inputs = [(score, *(ops.parameter(score.get_partial_shape(), score.get_element_type()) for _ in range(2)))]
    inputs += [
        (source, parameter, ops.parameter(source.get_partial_shape(), source.get_element_type()))
        for source, parameter in starts.values()
    ]
    # an image of zeros, as many as there are images
    images = ops.gather(ops.shape_of(inputs[1][2]), np.array([0]), np.array(0))
    sides = [shape[axis].get_length() for axis in range(1, len(shape))]
    zeros = ops.broadcast(np.float32(0), ops.concat([images, np.array(sides, np.int64)], 0))
    thens = [ops.result(inputs[0][1]), ops.result(detail)]
    elses = [ops.result(inputs[0][2]), ops.result(zeros)]
    chosen = ops.if_op(ops.constant(np.bool_(0)))
    chosen.set_then_body(ov.Model(thens, [then for _, then, _ in inputs], "drawn"))
    chosen.set_else_body(ov.Model(elses, [otherwise for _, _, otherwise in inputs], "not drawn"))
    for source, then, otherwise in inputs:
        chosen.set_input(source, then, otherwise)
    for then, otherwise in zip(thens, elses, strict=True):
        chosen.set_output(then, otherwise)
    detail.get_tensor().set_names(set())
    chosen.output(1).get_tensor().set_names(names)
    passed = score.get_names()
    score.get_tensor().set_names(set())
    chosen.output(0).get_tensor().set_names(passed)
    passing.input(0).replace_source_output(chosen.output(0))
