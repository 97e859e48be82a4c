"""Private or fragile names of other packages that the code leans on.

A test that fails here says which door another version has closed, and where the code goes through it.
"""

import warnings
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import anomalib.data
import anomalib.models
import openvino as ov
import pytest
import timm
import torch
from anomalib.data import InferenceBatch, MVTecAD
from anomalib.models import UnknownModelError, get_model
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing.utils.spec import transform_to_spec
from lightning import LightningModule, Trainer
from timm.layers import Conv2dSame
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from anomalib_i3ad import MVTec
from anomalib_i3ad.components.loops import repeat, repeat_active
from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.engine import CPU_CACHE
from anomalib_i3ad.deploy.graph import _limit, loops_of
from anomalib_i3ad.models.feature_i3ad.features import FrozenFeatures, _PaddedConv2d
from anomalib_i3ad.registration import register_transform


def door(holder: object, path: str, where: str) -> Any:
    """What is behind a dotted name; fails with the name and the place in the code that uses it."""
    try:
        return reduce(getattr, path.split("."), holder)
    except AttributeError as error:
        name = getattr(holder, "__name__", type(holder).__name__)
        pytest.fail(f"{path} of {name} is gone ({error}): {where} uses it")


def check_refused(error: type[BaseException], call: Callable[[], Any], otherwise: str) -> None:
    """Fail with a message if a call raises no such error."""
    try:
        call()
    except error:
        return
    pytest.fail(otherwise)


class TestAnomalib:
    def test_get_model_imports_from_allowed_modules_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        allowed = door(anomalib.models, "ALLOWED_MODULES", "registration.register_models")
        monkeypatch.setattr(anomalib.models, "ALLOWED_MODULES", allowed - {"anomalib_i3ad", "anomalib_i3ad.models"})
        check_refused(
            UnknownModelError,
            lambda: get_model({"class_path": "anomalib_i3ad.I3AD"}),
            "get_model no longer asks ALLOWED_MODULES: registration.register_models may not need it",
        )

    def test_get_datamodule_looks_in_anomalib_data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(anomalib.data, "Other", MVTec, raising=False)
        datamodule = anomalib.data.get_datamodule({"class_path": "anomalib_i3ad.Other"})
        assert isinstance(datamodule, MVTec), (
            "get_datamodule looks elsewhere: registration.register_data sets names there"
        )

    def test_checkpoints_hold_registered_transforms_alone(self) -> None:
        class Own(Resize):
            pass

        def saved() -> dict:
            return transform_to_spec(Own([8, 8]))

        otherwise = "anomalib saves any transform: registration.register_transform may not need its registry"
        check_refused(ValueError, saved, otherwise)
        register_transform(Own)
        assert saved(), "registration.register_transform no longer reaches what checkpoints are made by"

    def test_a_datamodule_looks_for_its_images_in_its_setup_hook(self, tmp_path: Path) -> None:
        looked = []

        class Own(MVTecAD):
            def _setup(self, _stage: str | None = None) -> None:
                looked.append(_stage)
                raise KeyboardInterrupt

        otherwise = "setup no longer calls _setup: MVTec checks its images there"
        check_refused(KeyboardInterrupt, lambda: Own(tmp_path).setup("fit"), otherwise)
        assert looked == ["fit"]

    def test_post_processing_goes_through_what_ours_overrides(self) -> None:
        where = "QuantilePostProcessor"
        keys = door(PostProcessor(), "_checkpoint_config_keys", where)
        assert set(PostProcessor().checkpoint_config()) == set(keys), f"{where} adds its arguments to these keys"
        asked = []

        class Own(PostProcessor):
            @staticmethod
            def _normalize(preds: Any, norm_min: Any, norm_max: Any, threshold: Any) -> Any:
                asked.append((norm_min.item(), norm_max.item(), threshold.item()))
                return preds

            def _apply_threshold(self, preds: Any, threshold: Any) -> Any:
                compared.append(tuple(preds.shape))
                return preds > threshold

        processor, compared = Own(), []
        for name, value in (("image_min", 1.0), ("image_max", 2.0), ("_image_threshold", 3.0)):
            door(processor, name, where).fill_(value)
        for name, value in (("pixel_min", 4.0), ("pixel_max", 5.0), ("_pixel_threshold", 6.0)):
            door(processor, name, where).fill_(value)
        processor(InferenceBatch(pred_score=torch.zeros(1), anomaly_map=torch.zeros(1, 1, 2, 2)))
        assert asked == [(1, 2, 3), (4, 5, 6)], f"anomalib normalises otherwise than {where} expects"
        assert compared == [(1,), (1, 1, 2, 2)], f"anomalib compares with thresholds otherwise than {where} expects"


class _Counting(LightningModule):
    """Two optimisers, three batches; notes what the loops tell."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
        self.automatic_optimization = False
        self.told: dict[str, Any] = {}
        self.validated = 0

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        door(self.trainer, "fit_loop.setup_data", "StepMixin.planned_steps")()
        self.told["batches before the optimisers are there"] = self.trainer.num_training_batches
        return [torch.optim.SGD(layer.parameters(), 0.1) for layer in self.layers]

    def on_train_start(self) -> None:
        door(self.trainer, "fit_loop.epoch_loop.val_loop.setup_data", "ReconstructionMixin.on_train_start")()
        self.told["validation batches before the first validation"] = self.trainer.num_val_batches

    def training_step(self, batch: torch.Tensor) -> None:
        for optimizer in self.optimizers():
            optimizer.step(lambda: self.layers[0](batch).sum())

    def on_train_epoch_end(self) -> None:
        total = door(self.trainer, "fit_loop.epoch_loop.batch_progress.total", "StepMixin.batches_seen")
        self.told["batches, whatever the optimisers"] = total.processed
        self.trainer.validating = True
        door(self.trainer, "fit_loop.epoch_loop.val_loop.run", "ReconstructionMixin._validate")()
        self.trainer.training = True
        self.told["validation batches within the fit"] = self.validated

    def validation_step(self, _batch: torch.Tensor) -> None:
        self.validated += 1


def test_lightnings_loops_count_and_validate_when_asked(tmp_path: Path) -> None:
    module = _Counting()
    assert door(module, "_trainer", "ExportMixin.to_openvino") is None
    images = DataLoader([torch.zeros(1)] * 3)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        num_sanity_val_steps=0,
        check_val_every_n_epoch=9,
        default_root_dir=tmp_path,
        **quiet,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, of loaders without workers
        trainer.fit(module, images, DataLoader([torch.zeros(1)] * 2))
    assert module.told == {
        "batches before the optimisers are there": 3,
        "validation batches before the first validation": [2],
        "batches, whatever the optimisers": 3,
        "validation batches within the fit": 2,
    }, "Lightning's loops tell or do something else than ReconstructionMixin expects"


class _Loops(nn.Module):
    """A counted loop, and one that images leave one by one, as models have them."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        (image,) = repeat(5, lambda i, x: (x + i.to(x.dtype) * (i < 3).to(x.dtype),), (image,))

        def step(_: tuple[torch.Tensor, ...], state: tuple[torch.Tensor, ...]) -> tuple[Any, torch.Tensor]:
            return (state[0] / 2,), state[0].amax(dim=(1, 2, 3)) > 1

        ones = torch.ones_like(image[:, 0, 0, 0]).bool()
        (image,), iterations = repeat_active(step, (), (image,), ones, 7)
        return image + iterations[:, None, None, None]


def test_torchs_loop_becomes_openvinos_whose_limit_is_found(tmp_path: Path) -> None:
    try:
        from torch._higher_order_ops.while_loop import while_loop
    except ImportError as error:
        pytest.fail(f"torch's while_loop has moved ({error}): components.loops exports by it")
    assert callable(while_loop)
    path, image = tmp_path / "loops.onnx", torch.rand(2, 3, 4, 5)
    module = _Loops().eval()
    torch.onnx.export(module, (image,), path, dynamo=True, opset_version=18, verbose=False)
    model = ov.convert_model(path)
    limits = [_limit(loop) for loop in loops_of(model)]
    assert limits == [5, 7], f"deploy.graph._limit finds {limits} as limits of Loops that end after 5 and 7"
    (result,) = new_core().compile_model(model, "CPU")(image.numpy()).values()
    torch.testing.assert_close(torch.from_numpy(result), module(image), rtol=0, atol=1e-6)


def test_openvinos_cpu_can_be_told_to_keep_nothing_of_each_size() -> None:
    core = ov.Core()
    assert "CPU" in core.available_devices  # asking loads what refuses unknown properties
    otherwise = "OpenVINO takes any property: deploy.engine.Inspector cannot tell whether it knows its own"
    check_refused(RuntimeError, lambda: core.set_property("CPU", {"NO_SUCH_PROPERTY": 0}), otherwise)
    try:
        core.set_property("CPU", {CPU_CACHE: 0})
    except RuntimeError as error:
        pytest.fail(f"{CPU_CACHE} is gone ({error}): memory of deploy.engine.Inspector grows with each size of images")


class TestTimm:
    BACKBONE, LAYERS = "tf_efficientnet_lite0", ("blocks.1", "blocks.2")

    def test_blocks_behind_the_last_layer_can_be_left_out(self) -> None:
        whole = timm.create_model(self.BACKBONE, features_only=True, out_indices=(1, 2), exportable=True).eval()
        blocks = door(whole, "blocks", "models.feature_i3ad.features.FrozenFeatures")
        assert len(blocks) == 7, "timm leaves blocks out by itself: FrozenFeatures need not"
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            expected = whole(image)
            whole.blocks = blocks[:3]
            found = whole(image)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other), "timm's features come otherwise than from its blocks in a row"

    def test_padding_layers_can_be_exchanged_in_place(self) -> None:
        features = FrozenFeatures(self.BACKBONE, self.LAYERS)
        exchanged = [module for module in features.modules() if isinstance(module, Conv2dSame)]
        assert exchanged, "timm pads otherwise than by Conv2dSame: FrozenFeatures exchanges none"
        kinds = {type(module) for module in exchanged}
        assert kinds == {_PaddedConv2d}, "timm's layers keep their class: FrozenFeatures exchanges it"
        whole = timm.create_model(self.BACKBONE, features_only=True, out_indices=(1, 2)).eval()
        whole.load_state_dict(features.network.state_dict(), strict=False)
        image = torch.rand(1, 3, 64, 96)
        with torch.no_grad():
            pairs = zip(features(image), whole((image - features.mean) / features.std), strict=True)
            for one, other in pairs:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", ["anomalib_i3ad", "anomalib_i3ad.models.riad", "test_riad", "conftest"])
def test_warnings_of_our_own_code_are_errors(module: str) -> None:
    with pytest.raises(FutureWarning, match="closes soon"):
        exec("import warnings; warnings.warn('closes soon', FutureWarning)", {"__name__": module})  # noqa: S102
