"""Inspection of single images by an exported model: NumPy, OpenVINO and OpenCV are all it needs."""

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import openvino as ov

from .core import new_core
from .decoding import ImageError, read_image
from .graph import (
    FP32,
    RECONSTRUCTION,
    ModelError,
    detail_names,
    fixed_size,
    loops_of,
    one_at_a_time,
    read_model,
    reason_of,
    thresholds_of,
    with_details,
    with_image_input,
)
from .masks import mask_of

logger = logging.getLogger(__name__)

Hint = Literal["latency", "throughput"]
#: OpenVINO's first version in which a loop that runs zero times does not give the previous image's result.
LOOPS_SINCE = (2026, 4)
#: Of the CPU: for how many sizes of images it keeps its kernels.
CPU_CACHE = "CPU_RUNTIME_CACHE_CAPACITY"


class Inspection(NamedTuple):
    """Result of one image.

    ``score`` in [0, 1), above ``image_threshold`` is anomalous. ``label``: anomalous. ``anomaly_map`` (h, w) float
    in [0, 1) and ``mask`` (h, w) bool, at the model's own size. ``iterations``: inpaintings after the first, ``None``
    for models that do not iterate. ``reconstruction`` (h, w, 3) RGB bytes: the part as it should look, where the
    model has one. ``milliseconds`` from the start to the end of inference, without decoding.
    """

    score: float
    label: bool
    anomaly_map: np.ndarray
    mask: np.ndarray
    iterations: int | None
    reconstruction: np.ndarray | None
    milliseconds: float


class Ticket(NamedTuple):
    """An image under inspection, and its request until that is finished; see :meth:`Inspector.start`."""

    request: list[ov.InferRequest]
    image: np.ndarray


def usable_cache(folder: str | Path | None) -> dict[str, str]:
    """Setting for a cache folder, or none with a warning where it cannot be written."""
    if folder is None:
        return {}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        logger.warning("%s: no cache, the model is compiled at each start (%s)", folder, error.strerror)
        return {}
    return {"CACHE_DIR": str(folder)}


def check_loops(graph: ov.Model, path: str | Path) -> None:
    """Check that this OpenVINO runs the loops of a graph as they are meant.

    Raises:
        ModelError: If it does not.
    """
    version = ov.__version__.partition("-")[0]
    if loops_of(graph) and tuple(map(int, re.findall(r"\d+", version)[:2])) < LOOPS_SINCE:
        needed = ".".join(map(str, LOOPS_SINCE))
        msg = (
            f"{path}: has a loop, and where none of its iterations is needed, OpenVINO {version} "
            f'gives the result of the image before; pip install "openvino>={needed}", '
            "or give the file that anomalib-i3ad convert --unroll writes"
        )
        raise ModelError(msg)


def fitted(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """An image ``(H, W, 3)`` resized to what a graph of fixed size takes, height and width; as it is if ``None``."""
    if size in {None, image.shape[:2]}:
        return image
    height, width = size
    shrunk = (min(width, image.shape[1]), min(height, image.shape[0]))
    image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)  # which would not interpolate where a side grows
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


class Inspector:
    """An exported model, ready to inspect; threads may share it, processes may not.

    Args:
        model: The ``.xml`` file, its ``.bin`` file beside it.
        device: OpenVINO's name of a device: ``CPU``, ``GPU``, ``NPU``, or ``AUTO`` for the best there is; in any case.
        hint: ``latency`` for one image after the other, ``throughput`` for many at a time.
        cache: Folder in which compiled models are kept, for a quick start.
        image_threshold: Score above which an image is anomalous; ``None`` for that of the file, which is 0.5 unless
            the sensitivity was another when it was exported.
        pixel_threshold: Map value above which a pixel is, unless it merely surrounds a peak; ``None`` likewise.

    Raises:
        ModelError: If the model or the device cannot be used.
        ValueError: If an argument is none of these.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "CPU",
        hint: Hint = "latency",
        cache: str | Path | None = None,
        image_threshold: float | None = None,
        pixel_threshold: float | None = None,
    ) -> None:
        for name, threshold in (("image_threshold", image_threshold), ("pixel_threshold", pixel_threshold)):
            if threshold is not None and not 0 <= threshold <= 1:
                msg = f"{name} {threshold} must lie in [0, 1]; 0.5 is the calibrated one"
                raise ValueError(msg)
        if hint not in get_args(Hint):
            msg = f"hint {hint!r} must be one of {', '.join(get_args(Hint))}"
            raise ValueError(msg)
        core = new_core()
        graph = with_details(with_image_input(read_model(model)))
        check_loops(graph, model)
        image, pixel = thresholds_of(graph)
        self.image_threshold = image if image_threshold is None else float(image_threshold)
        self.pixel_threshold = pixel if pixel_threshold is None else float(pixel_threshold)
        # GPUs would halve the precision, and scores would differ from those of the thresholds
        config = {"PERFORMANCE_HINT": hint.upper(), **FP32, **usable_cache(cache)}
        device = device.upper()
        known = {name.partition(".")[0] for name in core.available_devices}  # of two GPUs GPU.0 and GPU.1 are listed
        if re.split("[.:]", device)[0] not in known | {"AUTO", "MULTI", "HETERO", "BATCH"}:
            msg = f"device {device}: not on this machine, which has {', '.join(core.available_devices)}; or use AUTO"
            raise ModelError(msg)
        with suppress(RuntimeError):  # or the CPU keeps what it made for each size of images; known until it is not
            core.set_property("CPU", {CPU_CACHE: 0})
        try:
            self._compiled = core.compile_model(one_at_a_time(graph), device, config)
        except RuntimeError as error:
            reason = reason_of(error)
            msg = f"{model}: {device} cannot run it ({reason}); if it cannot run loops: anomalib-i3ad convert --unroll"
            raise ModelError(msg) from error
        self._size = fixed_size(graph)
        details = detail_names(graph)
        self._iterates, self._reconstructs = "iterations" in details, RECONSTRUCTION in details
        #: How many images are best under inspection at a time.
        self.parallel: int = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._free: list[ov.InferRequest] = []
        self._process = os.getpid()

    def start(self, image: np.ndarray) -> Ticket:
        """Begin to inspect an image; more than ``parallel`` under way gain nothing.

        Args:
            image: ``(H, W, 3)`` RGB or ``(H, W)`` gray bytes, any size; a graph of fixed size gets it resized. It is
                copied: the array may change at once.

        Returns:
            What :meth:`finish` takes.

        Raises:
            ImageError: If it is no such image, or inference cannot start.
            RuntimeError: If this process was forked from the one that made the inspector.
        """
        if os.getpid() != self._process:  # OpenVINO's threads are not here, and it would wait for them forever
            msg = "the Inspector was made in another process; make one in each"
            raise RuntimeError(msg)
        if not isinstance(image, np.ndarray):
            msg = f"image of type {type(image).__name__}: needed is an array, or to inspect, the path of a file"
            raise ImageError(msg)
        if image.dtype != np.uint8 or image.ndim not in {2, 3} or not image.size or image.shape[2:] not in {(), (3,)}:
            msg = f"image of shape {image.shape} and type {image.dtype}: needed is (H, W, 3) RGB or (H, W), uint8"
            raise ImageError(msg)
        given = image
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        image = fitted(image, self._size)
        image = np.ascontiguousarray(image)
        if np.may_share_memory(image, given):  # which may hold the camera's next image before this one is done
            image = image.copy()
        try:
            request = self._free.pop()
        except IndexError:  # other images, maybe of other threads, have them all
            request = self._compiled.create_infer_request()
        try:
            request.start_async({0: image[None]}, share_inputs=True)
        except RuntimeError as error:
            self._free.append(request)
            msg = f"inference cannot start: {reason_of(error)}"
            raise ImageError(msg) from error
        return Ticket([request], image)

    def finish(self, ticket: Ticket) -> Inspection:
        """Wait for an image's result.

        Raises:
            ImageError: If it is not finite or not normalised, inference failed, or it was taken before.
        """
        try:
            request = ticket.request.pop()
        except IndexError as error:  # another image may have the request by now
            msg = "its result was taken before; finish each ticket once"
            raise ImageError(msg) from error
        try:
            request.wait()
            anomaly_map = request.get_tensor("anomaly_map").data[0, 0].copy()
            score = float(request.get_tensor("pred_score").data.item())
            iterations = round(request.get_tensor("iterations").data.item()) if self._iterates else None
            reconstruction = None
            if self._reconstructs:
                drawn = request.get_tensor(RECONSTRUCTION).data[0].clip(0, 1)
                reconstruction = np.rint(255 * drawn).astype(np.uint8).transpose(1, 2, 0)
            milliseconds = request.latency
            if not (np.isfinite(score) and np.isfinite(anomaly_map).all()):
                msg = "the model's result is not finite"
                raise ImageError(msg)
            if score > 1:
                msg = (
                    f"its score is {score:.6g}, so the model's scores are not normalised; export it with anomalib's "
                    "default post-processor, whose enable_normalization is True"
                )
                raise ImageError(msg)
        except RuntimeError as error:
            raise ImageError(reason_of(error)) from error
        finally:
            self._free.append(request)
        return Inspection(
            score, score > self.image_threshold, anomaly_map, mask_of(anomaly_map, self.pixel_threshold),
            iterations, reconstruction, milliseconds,
        )  # fmt: skip

    def inspect(self, image: np.ndarray | str | Path) -> Inspection:
        """Inspect one image.

        Args:
            image: ``(H, W, 3)`` RGB or ``(H, W)`` gray bytes, or the path of an image file.

        Raises:
            ImageError: If it is no image, or inference failed; the message names the file.
            RuntimeError: See :meth:`start`.
        """
        if not isinstance(image, str | os.PathLike):
            return self.finish(self.start(image))
        try:
            return self.finish(self.start(read_image(image)))
        except ImageError as error:
            msg = f"{image}: {error}"
            raise ImageError(msg) from error
