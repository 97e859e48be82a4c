"""What every model of the plugin must pass; its own tests are subclasses of a few lines."""

import re
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, get_model, list_models
from jsonargparse import ArgumentParser
from lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from anomalib_i3ad import Textures
from anomalib_i3ad.deploy.core import new_core
from anomalib_i3ad.deploy.graph import FP32, OUTPUTS
from anomalib_i3ad.models.feature_i3ad.torch_model import FeatureI3ADModel

SCORE_TOLERANCE = 1e-4
MAP_TOLERANCE = 1e-3
MASK_TOLERANCE = 1e-3  # share of pixels: rounding decides those at the threshold
#: Each runtime that exported models are compared in, and the sizes of images that its graph takes.
OPENVINO, ONNX_RUNTIME = "OpenVINO, any size", "ONNX Runtime, fixed size"
SIZES = {OPENVINO: [(90, 70), (64, 64), (50, 131)], ONNX_RUNTIME: [(90, 70)]}


def make_engine(**kwargs: Any) -> Engine:
    """Engine that trains a tiny model quietly on the CPU."""
    return Engine(**{"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "max_epochs": 2, **kwargs})


def make_images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth random images ``(count, 3, height, width)`` in [0, 1]."""
    nodes = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(nodes, (height, width), mode="bicubic").clamp(0, 1)


def weights_of(model: AnomalibModule) -> torch.Tensor:
    """Every trained number of a model in a row."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def faded_peaks(values: np.ndarray) -> np.ndarray:
    """What peaks leave in each block of 8 x 8 of ``(h, w)``: 0.8 of a peak for each block to it, at most 8."""
    starts = [(i, j) for i in range(0, len(values), 8) for j in range(0, values.shape[1], 8)]
    peaks = {(i, j): values[i : i + 8, j : j + 8].max() for i, j in starts}
    top = np.empty_like(values)
    for i, j in starts:
        steps = {(k, m): max(abs(k - i), abs(m - j)) // 8 for k, m in starts}
        top[i : i + 8, j : j + 8] = max(0.8**far * peaks[other] for other, far in steps.items() if far <= 8)
    return top


def set_usual(model: FeatureI3ADModel) -> None:
    """Let errors of features usually be 1, and not vary together, and random cells be remembered."""
    model.usual_cosine.fill_(0.5)
    for usual in model.usual_errors:
        kept, channels = usual.components.shape
        usual.set_components(torch.eye(channels))
        usual.set_covariance(torch.eye(kept).expand(len(usual.whitening), -1, -1), 1)
    model.memory.set_weights([torch.eye(channels) for channels in model.features.channels])
    model.memory.set_cells(torch.randn(600, sum(model.features.channels), generator=torch.Generator().manual_seed(0)))
    model.memory.usual.fill_(2)


def tables_in(printed: str) -> list[list[list[str]]]:
    """Cells of the Markdown tables in what was printed, table by table, without their heads."""
    found = re.findall(r"^\|.+\n\|[ :|-]+\|\n((?:\|.+\n?)+)", printed, re.MULTILINE)
    return [[line.strip("| ").split(" | ") for line in table.splitlines()] for table in found]


def check_export(model: AnomalibModule, run: Callable[[np.ndarray], Any], runtime: str) -> None:
    """Compare an exported model with torch's over batches of one and more images."""
    for count, (height, width) in enumerate(SIZES[runtime], start=1):
        image = make_images(count, height, width)
        with torch.no_grad():
            expected = model(image)
        result = run(image.numpy())
        assert np.abs(result["pred_score"] - expected.pred_score.numpy()).max() < SCORE_TOLERANCE
        assert np.abs(result["anomaly_map"] - expected.anomaly_map.numpy()).max() < MAP_TOLERANCE
        assert (result["pred_label"] == expected.pred_label.numpy()).all()
        assert (result["pred_mask"] != expected.pred_mask.numpy()).mean() < MASK_TOLERANCE


class ConfigurationTester:
    """What every configuration of a model must pass; subclass it as ``TestName`` and set the first two attributes."""

    model_class: ClassVar[type[AnomalibModule]]
    #: Constructor arguments of a model that trains in seconds.
    tiny: ClassVar[dict[str, Any]]
    #: Where its export is compared: exports are slow, and a model of two configurations needs one in each.
    runtimes: ClassVar[tuple[str, ...]] = (OPENVINO, ONNX_RUNTIME)
    #: Raw scores and maps lie below it.
    score_bound: ClassVar[float] = 1
    #: Settings of its optimisers, learning rate aside.
    adam: ClassVar[dict[str, Any]] = {"betas": (0.9, 0.999), "weight_decay": 0}

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, texture_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AnomalibModule, Path]:
        """Model after two epochs on the tiny fabric, and its checkpoint."""
        torch.manual_seed(0)
        model = cls.model_class(**cls.tiny)
        engine = make_engine(default_root_dir=tmp_path_factory.mktemp("fitted"))
        engine.fit(model, datamodule=cls.datamodule(texture_root))
        return model.eval(), Path(engine.best_model_path)

    @staticmethod
    def datamodule(root: Path) -> Textures:
        """Datamodule over the tiny fabric."""
        return Textures(root, image_size=64, train_count=12, test_count=7, train_batch_size=4, num_workers=0)

    def test_calibrates_on_normal_images_alone(self, fitted: tuple[AnomalibModule, Path], textures: Textures) -> None:
        model, checkpoint = fitted
        processor = model.post_processor
        assert 0 < processor.image_threshold < self.score_bound
        assert 0 < processor.pixel_threshold < self.score_bound
        loaded = self.model_class.load_from_checkpoint(checkpoint)
        assert loaded.post_processor.image_threshold == processor.image_threshold
        assert loaded.post_processor.pixel_threshold == processor.pixel_threshold
        assert loaded.post_processor.normal_images == processor.normal_images == 2
        textures.setup()
        make_engine().validate(loaded, dataloaders=textures.test_dataloader(), verbose=False)
        assert loaded.post_processor.normal_images == 7 < len(textures.test_data)

    def test_checkpoint_gives_the_same_scores(self, fitted: tuple[AnomalibModule, Path]) -> None:
        model, checkpoint = fitted
        loaded = self.model_class.load_from_checkpoint(checkpoint).eval()
        image = make_images(2, 90, 70)
        with torch.no_grad():
            torch.testing.assert_close(loaded(image).anomaly_map, model(image).anomaly_map, rtol=0, atol=0)

    def test_same_seed_same_weights(self, texture_root: Path) -> None:
        def trained(seed: int) -> torch.Tensor:
            torch.seed()
            before = torch.get_rng_state()
            model = self.model_class(**self.tiny, seed=seed)
            make_engine(max_epochs=1).fit(model, datamodule=self.datamodule(texture_root))
            assert torch.equal(torch.get_rng_state(), before)
            return weights_of(model)

        first = trained(3)
        assert torch.equal(first, trained(3))
        assert not torch.equal(first, trained(4))

    def test_resumes_with_its_optimisers(self, fitted: tuple[AnomalibModule, Path], texture_root: Path) -> None:
        model = self.model_class(**self.tiny)
        engine = make_engine(max_epochs=3)
        engine.fit(model, datamodule=self.datamodule(texture_root), ckpt_path=fitted[1])
        batches = len(self.loader_of(texture_root))
        for optimizer in engine.trainer.optimizers:
            steps = {int(state["step"]) for state in optimizer.state.values()}
            assert steps == {3 * batches}

    def test_its_optimisers_are_those_of_its_sources(self, fitted: tuple[AnomalibModule, Path]) -> None:
        states = torch.load(fitted[1], weights_only=False)["optimizer_states"]
        groups = [group for state in states for group in state["param_groups"]]
        assert [{name: group[name] for name in self.adam} for group in groups] == [self.adam] * len(states)

    def loader_of(self, root: Path) -> Any:
        """Training batches of the tiny fabric."""
        datamodule = self.datamodule(root)
        datamodule.setup()
        return datamodule.train_dataloader()

    def test_a_batch_scores_as_its_images_do_alone(self, fitted: tuple[AnomalibModule, Path]) -> None:
        image = make_images(5, 64, 64)
        with torch.no_grad():
            together = fitted[0](image)
            alone = [fitted[0](single) for single in image.split(1)]
        torch.testing.assert_close(together.pred_score, torch.cat([one.pred_score for one in alone]), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            together.anomaly_map, torch.cat([one.anomaly_map for one in alone]), rtol=0, atol=1e-4
        )

    def test_predict_equals_the_module(self, fitted: tuple[AnomalibModule, Path], textures: Textures) -> None:
        textures.setup()
        engine = make_engine()
        predictions = engine.predict(fitted[0], dataloaders=textures.test_dataloader())
        for batch, item in zip(predictions, textures.test_dataloader(), strict=True):
            with torch.no_grad():
                expected = fitted[0](item.image.as_subclass(torch.Tensor))
            torch.testing.assert_close(batch.pred_score, expected.pred_score, rtol=0, atol=1e-6)
            assert torch.equal(batch.pred_label, expected.pred_label)

    @pytest.mark.parametrize("runtime", [OPENVINO, ONNX_RUNTIME])
    def test_exports_agree(self, fitted: tuple[AnomalibModule, Path], tmp_path: Path, runtime: str) -> None:
        if runtime not in self.runtimes:
            pytest.skip("compared in another configuration, or in test_export")
        model, _ = fitted
        if runtime == OPENVINO:
            run = new_core().compile_model(model.to_openvino(tmp_path), "CPU", FP32)
        else:
            (size,) = SIZES[runtime]
            session = onnxruntime.InferenceSession(model.to_onnx(tmp_path, input_size=size))

            def run(image: np.ndarray) -> dict[str, np.ndarray]:
                return dict(zip(OUTPUTS, session.run(OUTPUTS, {"input": image}), strict=True))

        check_export(model, run, runtime)

    def test_exports_to_torch(self, fitted: tuple[AnomalibModule, Path], tmp_path: Path) -> None:
        image = make_images(1, 64, 64)
        loaded = torch.load(fitted[0].to_torch(tmp_path), weights_only=False)["model"].eval()
        with torch.no_grad():
            assert torch.equal(loaded(image).pred_score, fitted[0](image).pred_score)

    def test_ends_by_itself(self, texture_root: Path) -> None:
        model = self.model_class(**self.tiny, max_train_steps=5)
        engine = make_engine(max_epochs=None, check_val_every_n_epoch=50)
        engine.fit(model, datamodule=self.datamodule(texture_root))
        assert model.train_step == 5
        # calibrated at the end although the validation schedule would not have come round
        saved = self.model_class.load_from_checkpoint(engine.best_model_path)
        assert 0 < saved.post_processor.image_threshold < self.score_bound
        for mine, theirs in zip(model.model.parameters(), saved.model.parameters(), strict=True):
            assert torch.equal(mine, theirs)


class ModelTester(ConfigurationTester):
    """What every model must pass, too, in one of its configurations; set the next two attributes as well."""

    name: ClassVar[str]
    #: Arguments, over ``tiny`` and other than the default, with which a checkpoint of ``tiny`` gives other scores.
    unfit: ClassVar[dict[str, Any]]

    def test_a_fit_that_has_taken_its_steps_takes_no_more(
        self, fitted: tuple[AnomalibModule, Path], texture_root: Path
    ) -> None:
        model, checkpoint = fitted
        again, engine = self.model_class(**self.tiny, max_train_steps=6), make_engine(max_epochs=-1)
        saved = checkpoint.read_bytes()
        engine.fit(again, datamodule=self.datamodule(texture_root), ckpt_path=checkpoint)
        assert again.train_step == 6  # two epochs of three batches
        assert checkpoint.read_bytes() == saved
        assert torch.equal(weights_of(again), weights_of(model))
        assert again.post_processor.image_threshold.item() == pytest.approx(
            model.post_processor.image_threshold.item(), rel=1e-4
        )

    @pytest.mark.parametrize("number", [np.int64, np.float32])
    def test_numbers_of_numpy_do_not_keep_a_checkpoint_from_loading(
        self, fitted: tuple[AnomalibModule, Path], tmp_path: Path, number: type
    ) -> None:
        given = (
            {"learning_rate": number(1)} if number is np.float32 else {"seed": number(3), "max_train_steps": number(5)}
        )
        model = self.model_class(**self.tiny | given)
        checkpoint = torch.load(fitted[1], weights_only=True)
        checkpoint["hyper_parameters"] = dict(model.hparams)
        torch.save(checkpoint, tmp_path / "model.ckpt")
        loaded = self.model_class.load_from_checkpoint(tmp_path / "model.ckpt")
        assert {name: loaded.hparams[name] for name in given} == given
        torch.save({name: getattr(model, name) for name in given}, tmp_path / "own.pt")  # as in optimisers' states
        assert torch.load(tmp_path / "own.pt", weights_only=True) == given

    def test_is_known_to_anomalib(self) -> None:
        assert isinstance(get_model(self.name, **self.tiny), self.model_class)
        path = f"anomalib_i3ad.{self.model_class.__name__}"
        model = get_model({"class_path": path, "init_args": self.tiny})
        assert isinstance(model, self.model_class)
        assert all(type(model.hparams[name]) is type(value) for name, value in self.tiny.items())  # not omegaconf's
        assert self.model_class.__name__ in list_models("pascal")

    def test_every_argument_has_its_help_and_is_in_the_checkpoint(self) -> None:
        parser = ArgumentParser()
        parser.add_class_arguments(self.model_class)
        told = {action.dest: action.help for action in parser._actions if "help" not in action.dest}
        own = {name for name in signature(self.model_class).parameters if name != "components"}
        assert set(told) == own | {"pre_processor", "post_processor", "evaluator", "visualizer"}
        assert all(told.values())
        assert set(self.model_class(**self.tiny).hparams) == own

    def test_lightnings_own_trainer_fits_as_the_engine_does(
        self, fitted: tuple[AnomalibModule, Path], texture_root: Path, tmp_path: Path
    ) -> None:
        model = self.model_class(**self.tiny)
        settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
        Trainer(max_epochs=2, default_root_dir=tmp_path, **settings).fit(
            model, datamodule=self.datamodule(texture_root)
        )
        theirs = fitted[0].state_dict()
        for name, mine in model.state_dict().items():
            torch.testing.assert_close(mine, theirs[name], rtol=0, atol=0, equal_nan=True, msg=name)

    def test_a_fit_that_could_not_be_calibrated_ends_before_it_trains(self, texture_root: Path) -> None:
        datamodule, model = self.datamodule(texture_root), self.model_class(**self.tiny, visualizer=False)
        datamodule.setup()
        model.training_step = lambda *_: pytest.fail("it trained")
        for label, told in ((None, "validation images have no gt_label"), (1, "no validation image is normal")):
            images = [replace(datamodule.val_data[0], gt_label=None if label is None else torch.tensor(label))]
            loader = DataLoader(images, collate_fn=ImageBatch.collate)
            with pytest.raises(ValueError, match=told):
                make_engine().fit(model, datamodule.train_dataloader(), loader)

    def test_refuses_a_checkpoint_of_other_arguments(
        self, fitted: tuple[AnomalibModule, Path], texture_root: Path
    ) -> None:
        other = self.model_class(**{**self.tiny, **self.unfit})
        name, value = next(iter(self.unfit.items()))
        with pytest.raises(ValueError, match=re.escape(f"{name}={self.tiny[name]} (this model: {value})")):
            make_engine().test(other, datamodule=self.datamodule(texture_root), ckpt_path=fitted[1])

    def test_refuses_a_checkpoint_of_another_version(self, fitted: tuple[AnomalibModule, Path], tmp_path: Path) -> None:
        checkpoint = torch.load(fitted[1], weights_only=False)
        weights = checkpoint["state_dict"]
        name = next(name for name, weight in weights.items() if name.startswith("model.") and weight.dim() == 4)
        weights[name] = weights[name][..., :-1]
        torch.save(checkpoint, tmp_path / "model.ckpt")
        with pytest.raises(ValueError, match="with another version of it"):
            self.model_class.load_from_checkpoint(tmp_path / "model.ckpt")

    def test_takes_the_arguments_of_the_checkpoint(
        self, fitted: tuple[AnomalibModule, Path], texture_root: Path
    ) -> None:
        def scores(model: AnomalibModule, **kwargs: Any) -> torch.Tensor:
            batches = make_engine().predict(model, datamodule=self.datamodule(texture_root), **kwargs)
            return torch.cat([batch.pred_score for batch in batches])

        model = self.model_class(visualizer=False)
        assert torch.equal(scores(model, ckpt_path=fitted[1]), scores(fitted[0]))
        assert dict(model.hparams) == dict(fitted[0].hparams)

    def test_building_and_loading_leave_torchs_generator_alone(self, fitted: tuple[AnomalibModule, Path]) -> None:
        torch.seed()
        before = torch.get_rng_state()
        self.model_class(**self.tiny, seed=3)
        self.model_class.load_from_checkpoint(fitted[1])
        assert torch.equal(torch.get_rng_state(), before)

    def test_seed_everything_decides_the_weights(self) -> None:
        def initial(seed: int) -> torch.Tensor:
            seed_everything(seed, verbose=False)
            return weights_of(self.model_class(**self.tiny))

        assert torch.equal(initial(1), initial(1))
        assert not torch.equal(initial(1), initial(2))

    def test_stops_when_training_diverges(self, texture_root: Path) -> None:
        model = self.model_class(**self.tiny)
        engine = make_engine()
        next(weight for weight in model.model.parameters() if weight.requires_grad).data.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="diverged at step 0"):
            engine.fit(model, datamodule=self.datamodule(texture_root))
        assert not list(Path().rglob("*.ckpt"))

    @pytest.mark.parametrize(
        ("argument", "value", "range_of_it"),
        [
            ("image_size", 0, "whole number >= 1"),
            ("image_size", "64", "number of pixels, or height and width"),
            ("image_size", (64, 64, 3), "number of pixels, or height and width"),
            ("learning_rate", 0.0, "finite number > 0"),
            ("learning_rate", float("nan"), "finite number > 0"),
            ("learning_rate", float("inf"), "finite number > 0"),
            ("learning_rate", None, "finite number > 0"),
            ("max_train_steps", 0, "whole number >= 1"),
            ("max_train_steps", 2.5, "whole number >= 1"),
            ("seed", -1, f"whole number >= 0 and < {2**64}"),
        ],
    )
    def test_refuses_arguments_out_of_range(self, argument: str, value: Any, range_of_it: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{argument} {value!r} must be a {range_of_it}')}$"):
            self.model_class(**{**self.tiny, argument: value})

    def test_refuses_arguments_and_checkpoints_of_other_models(
        self, fitted: tuple[AnomalibModule, Path], tmp_path: Path
    ) -> None:
        told = f"^arguments, or a checkpoint, of another model: {self.model_class.__name__} got of_another$"
        with pytest.raises(TypeError, match=told):
            self.model_class(**self.tiny, of_another=1)
        checkpoint = torch.load(fitted[1], weights_only=False)
        checkpoint["hyper_parameters"]["of_another"] = 1
        torch.save(checkpoint, tmp_path / "other.ckpt")
        with pytest.raises(TypeError, match=told):
            self.model_class.load_from_checkpoint(tmp_path / "other.ckpt")

    def test_scores_nothing_before_it_is_calibrated(self, texture_root: Path) -> None:
        model = self.model_class(**self.tiny)
        with pytest.raises(ValueError, match="not calibrated"):
            make_engine().test(model, datamodule=self.datamodule(texture_root))
        with pytest.raises(ValueError, match="not calibrated"):
            model.eval()(make_images(1, 64, 64))

    def test_refuses_to_fit_without_validation_images(self, texture_root: Path) -> None:
        with pytest.raises(ValueError, match="val_split_mode"):
            make_engine(limit_val_batches=0).fit(
                self.model_class(**self.tiny), datamodule=self.datamodule(texture_root)
            )
