"""Exported graphs: what they must look like, and the forms they can be brought into."""

import errno
import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openvino as ov
import openvino.opset15 as ops
from openvino.op.util import MergedInputDescription

from .core import new_core

OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
#: Where metadata lies in the IR: as Model API has it, and beside it what is ours.
MODEL_INFO = "model_info"
OWN_INFO = "anomalib_i3ad"
#: Entry of ours that names the tensors inside the graph by which a result is explained.
DETAILS = "details"
#: The one of them that is an image: the part as it should look.
RECONSTRUCTION = "reconstruction"
#: Full precision on every device: thresholds were found in it.
FP32 = {"INFERENCE_PRECISION_HINT": "f32"}


class ModelError(Exception):
    """A model file that cannot be used; the message names the file and says what would be right."""


def reason_of(error: Exception) -> str:
    """What an error of OpenVINO's is about: its last line, behind those that say where in its code."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def weights_digest(path: Path) -> str:
    """SHA-256 of the file of weights that belongs to ``path``, an ``.xml`` file."""
    return hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()


def files_of(path: str | Path) -> tuple[Path, Path]:
    """The two files of a model, named by its ``.xml`` file.

    Raises:
        ModelError: If one is not there.
    """
    path = Path(path)
    files = path, path.with_suffix(".bin") if path.name else path
    for needed in files:
        if not needed.is_file():
            msg = f"{needed}: there is no such file; a model is an .xml file with its .bin file beside it"
            raise ModelError(msg)
    return files


def read_model(path: str | Path) -> ov.Model:
    """Read an exported model and check that it is one, and that its weights are its own.

    Args:
        path: The ``.xml`` file; its ``.bin`` file lies beside it.

    Raises:
        ModelError: If it is not there, not readable, not ours or not whole, or comes with another model's weights.
    """
    path, _ = files_of(path)
    try:
        model = new_core().read_model(path)
    except RuntimeError as error:
        msg = f"{path}: OpenVINO cannot read it ({reason_of(error)}); export the model again"
        raise ModelError(msg) from error
    names = {name for output in model.outputs for name in output.get_names()}
    if len(model.inputs) != 1 or not set(OUTPUTS) <= names:
        msg = (
            f"{path}: not a model of anomalib: it has {len(model.inputs)} inputs and the outputs "
            f"{sorted(names)}; needed are one image and {', '.join(OUTPUTS)}"
        )
        raise ModelError(msg)
    taken = model.input(0).get_partial_shape()
    image = [1, -1, -1, 3] if takes_bytes(model) else [1, 3, -1, -1]
    if not taken.compatible(ov.PartialShape(image)):
        msg = f"{path}: not a model of colour images, one at a time: its input is {taken}, needed is {image}"
        raise ModelError(msg)
    expected = _noted(model, "weights_sha256")
    if expected and expected != weights_digest(path):
        msg = f"{path.with_suffix('.bin')}: not the weights that {path.name} was written with; copy both files again"
        raise ModelError(msg)
    gone = set(detail_names(model)) - _tensor_names(model)
    if gone:
        msg = f"{path}: its details {', '.join(sorted(gone))} are not in the graph; export the model again"
        raise ModelError(msg)
    return model


def save_model(model: ov.Model, path: Path) -> Path:
    """Write ``.xml`` and ``.bin`` as they are, and into the first the digest of the second.

    Args:
        model: The graph.
        path: The ``.xml`` file; a model that is there stays until the new one is whole.

    Raises:
        OSError: If they cannot be written; the message names the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        part = Path(folder) / path.name
        try:
            for _ in range(2):  # the digest of the weights is known once they have been written
                ov.save_model(model, part, compress_to_fp16=False)
                model.set_rt_info(weights_digest(part), [OWN_INFO, "weights_sha256"])
        except RuntimeError as error:
            msg = "the model cannot be written; is the disk full?"
            raise OSError(errno.EIO, msg, str(path)) from error
        for file in (part.with_suffix(".bin"), part):
            file.replace(path.with_suffix(file.suffix))
    return path


def _noted(model: ov.Model, name: str) -> str:
    """Entry of ours in the graph's metadata; empty where there is none."""
    place = [OWN_INFO, name]
    return str(model.get_rt_info(place).astype(str)) if model.has_rt_info(place) else ""


def thresholds_of(model: ov.Model) -> tuple[float, float]:
    """Score above which an image is anomalous, and map value above which a pixel is; 0.5 where the file says none."""
    image, pixel = (float(_noted(model, name) or 0.5) for name in ("image_threshold", "pixel_threshold"))
    return image, pixel


def detail_names(model: ov.Model) -> list[str]:
    """Names of the tensors by which the graph explains a result; ``iterations`` and ``reconstruction`` are known."""
    return _noted(model, DETAILS).split()


def set_detail_names(model: ov.Model, names: list[str]) -> ov.Model:
    """Note which tensors inside the graph explain a result; changes the model in place."""
    model.set_rt_info(" ".join(names), [OWN_INFO, DETAILS])
    return model


def _tensor_names(model: ov.Model) -> set[str]:
    return {name for node in model.get_ordered_ops() for output in node.outputs() for name in output.get_names()}


def with_details(model: ov.Model) -> ov.Model:
    """Compute the details, as outputs after anomalib's four; changes the model in place."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "If":  # what only details need waits in a branch
            node.input(0).replace_source_output(ops.constant(np.bool_(1)).output(0))
    model.add_outputs(detail_names(model))
    return model


def takes_bytes(model: ov.Model) -> bool:
    """Whether the model's input is an image as cameras and decoders give it."""
    return model.input(0).get_element_type() == ov.Type.u8


def with_image_input(model: ov.Model) -> ov.Model:
    """Let the graph take RGB images as they come: ``(N, H, W, 3)`` bytes; changes the model in place."""
    if takes_bytes(model):
        return model
    steps = ov.preprocess.PrePostProcessor(model)
    image = steps.input(0)
    image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    image.preprocess().convert_element_type(ov.Type.f32).scale(255.0)
    image.model().set_layout(ov.Layout("NCHW"))
    return steps.build()


def one_at_a_time(model: ov.Model) -> ov.Model:
    """Fix an open batch at one image, which a CPU is half as fast again on; changes the model in place."""
    shape = model.input(0).get_partial_shape()
    if shape[0].is_dynamic:
        shape[0] = 1
        model.reshape(shape)
    return model


def fixed_size(model: ov.Model) -> tuple[int, int] | None:
    """Height and width in pixels of the images a graph takes; ``None`` if it takes any."""
    shape = model.input(0).get_partial_shape()
    height, width = (shape[axis] for axis in ((1, 2) if takes_bytes(model) else (2, 3)))
    return None if height.is_dynamic or width.is_dynamic else (height.get_length(), width.get_length())


def fix_size(model: ov.Model, size: tuple[int, int]) -> ov.Model:
    """Let the graph take one image at a time, of this height and width in pixels; changes the model in place.

    Raises:
        ModelError: If the size is none, or the graph takes another one alone.
    """
    taken = fixed_size(model)
    if min(size) < 1 or taken not in {None, (size[0], size[1])}:
        takes = f"{taken[0]} {taken[1]} alone; start from a model of any size" if taken else "1 pixel or more a side"
        msg = f"size {size[0]} {size[1]}: the model takes {takes}"
        raise ModelError(msg)
    model.reshape([1, *size, 3] if takes_bytes(model) else [1, 3, *size])
    return model


def loops_of(model: ov.Model) -> list[ov.Node]:
    """Loop nodes of a graph."""
    return [node for node in model.get_ordered_ops() if node.get_type_name() == "Loop"]


def _limit(loop: ov.Node) -> int:
    """Most iterations of a Loop node: what the condition of its body compares the counter with."""
    # a Loop's own trip count is unlimited; the condition is counter < limit, or that and another
    terms = [loop.get_function().get_results()[loop.get_special_body_ports()[1]]]
    for node in terms:
        operands = [value.get_node() for value in node.input_values()]
        if node.get_type_name() in {"Result", "LogicalAnd"}:
            terms += operands
        elif node.get_type_name() == "Less" and operands[1].get_type_name() == "Constant":
            return int(operands[1].data.item())
    msg = f"loop {loop.get_friendly_name()}: its number of iterations is not a constant"
    raise ValueError(msg)


def _redirect(output: ov.Output, source: ov.Output) -> None:
    for consumer in output.get_target_inputs():
        consumer.replace_source_output(source)


def unroll(model: ov.Model) -> ov.Model:
    """Write every Loop out, iteration after iteration, for devices that cannot run one; changes the model in place.

    Nothing stops early then: every image costs as much as the slowest; those that are done keep their result,
    as the bodies of this package's loops have it. The graph no longer tells ``iterations``.

    Raises:
        ValueError: If a loop's number of iterations is not a constant.
    """
    for loop in loops_of(model):
        inputs = loop.get_input_descriptions()
        values = {port.input_index: loop.input_value(port.input_index) for port in inputs}
        carried = [port for port in inputs if isinstance(port, MergedInputDescription)]
        results = {port.body_value_index: values[port.input_index] for port in carried}
        for i in range(_limit(loop)):
            body = loop.get_function().clone()
            parameters = body.get_parameters()
            counter = loop.get_special_body_ports()[0]
            if counter >= 0:
                number = ops.constant(np.full(parameters[counter].get_output_shape(0), i, np.int64))
                _redirect(parameters[counter].output(0), number.output(0))
            for port in inputs:
                _redirect(parameters[port.body_parameter_index].output(0), values[port.input_index])
            results = {number: result.input_value(0) for number, result in enumerate(body.get_results())}
            for port in carried:
                values[port.input_index] = results[port.body_value_index]
        for port in loop.get_output_descriptions():
            output, last = loop.output(port.output_index), results[port.body_value_index]
            last.get_tensor().set_names(output.get_names())
            _redirect(output, last)
    model.validate_nodes_and_infer_types()
    left = _tensor_names(model)
    return set_detail_names(model, [name for name in detail_names(model) if name in left])


def _halved(model: ov.Model) -> ov.Model:
    """The graph with its weights in FP16, as it is read from a file that stores them so."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=True)
        return new_core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())


def in_form(
    model: ov.Model,
    *,
    size: tuple[int, int] | None = None,
    unrolled: bool = False,
    image_input: bool = False,
    half: bool = False,
) -> ov.Model:
    """Bring an exported graph into the form that a device or a server wants; may change the model in place.

    Args:
        model: The graph.
        size: Height and width in pixels it takes; as it is if ``None``.
        unrolled: See :func:`unroll`.
        image_input: See :func:`with_image_input`.
        half: Weights in FP16.

    Raises:
        ModelError: If it takes images of another size already.
        ValueError: If a loop cannot be written out.
    """
    if size:
        model = fix_size(model, size)
    if unrolled:
        model = unroll(model)
    if image_input:
        model = with_image_input(model)
    if model.has_rt_info([MODEL_INFO]):
        if takes_bytes(model):  # Model API feeds floats to whatever it finds
            del model.rt_info[MODEL_INFO]
        elif not model.is_dynamic():  # Model API divides by 255 itself, but for images of fixed size
            model.set_rt_info("255 255 255", [MODEL_INFO, "scale_values"])
    return _halved(model) if half else model
