"""Fixtures: a small texture on disk, real images when they are at hand."""

import os
from collections.abc import Iterator
from pathlib import Path

from anomalib_i3ad import I3AD, Textures  # before OpenVINO, whose telemetry stays off

# isort: split
import openvino as ov
import pytest
import torch
from filelock import FileLock

from anomalib_i3ad.deploy.graph import fix_size, read_model, save_model
from anomalib_i3ad.export import to_openvino
from model_tester import make_engine

TINY = {"image_size": 64, "train_count": 12, "test_count": 7}

torch.set_num_threads(1)  # models are tiny, and tests run side by side
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # so do the programs they start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what takes minutes, unless asked for it."""
    for item in items:
        if item.get_closest_marker("slow") and "I3AD_SLOW" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="takes minutes: set I3AD_SLOW=1"))


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """anomalib writes results, runs and caches into the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _nobody_has_seeded() -> Iterator[None]:
    """``seed_everything`` leaves its seed in the environment, and models in later tests would draw by it."""
    yield
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def texture_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root in which the tiny fabric has been drawn."""
    root = tmp_path_factory.mktemp("textures")
    Textures(root=root, **TINY).prepare_data()
    return root


@pytest.fixture
def textures(texture_root: Path) -> Textures:
    """Datamodule over the tiny fabric."""
    return Textures(root=texture_root, **TINY, train_batch_size=4, eval_batch_size=4, num_workers=0)


@pytest.fixture
def real_data() -> Path:
    """Folder of real images named by ``I3AD_DATA``."""
    if "I3AD_DATA" not in os.environ:
        pytest.skip("needs real images: set I3AD_DATA to a folder that holds MVTecAD/bottle")
    return Path(os.environ["I3AD_DATA"])


@pytest.fixture(scope="session")
def untrained() -> I3AD:
    """I3AD that never saw an image, with thresholds near its scores: its numbers are as good as any to compare."""
    torch.manual_seed(0)
    model = I3AD(image_size=64, width=4, anomaly_map="last", max_iterations=6).eval()
    model.model.min_shrink = 0.01
    model.model.mask_threshold.fill_(0.37)
    model.post_processor._image_threshold.fill_(0.41)
    model.post_processor._pixel_threshold.fill_(0.45)
    model.post_processor.normal_images = 20
    return model


@pytest.fixture(scope="session")
def traced(untrained: I3AD, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graph before an export goes on with it; processes that run tests side by side share one: tracing is slow."""
    own = tmp_path_factory.getbasetemp()
    path = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "traced" / "model.xml"
    with FileLock(path.parent.with_suffix(".lock")):
        if not path.exists():
            save_model(to_openvino.convert(untrained, None, {}, {}), path)
    return path


@pytest.fixture(scope="session")
def exported(untrained: I3AD, traced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its OpenVINO file."""
    with pytest.MonkeyPatch.context() as patch:
        take_traced(patch, traced)
        return untrained.to_openvino(tmp_path_factory.mktemp("exported"))


def take_traced(patch: pytest.MonkeyPatch, traced: Path) -> None:
    """Let exports of the untrained model, and of checkpoints of it, start from its graph."""

    def convert(_module: I3AD, input_size: tuple[int, int] | None, *_kwargs: dict) -> ov.Model:
        model = read_model(traced)
        return fix_size(model, input_size) if input_size else model

    patch.setattr(to_openvino, "convert", convert)


@pytest.fixture(scope="session")
def trained(texture_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[I3AD, Path, Textures]:
    """I3AD after one epoch on the tiny fabric, its checkpoint, and its datamodule."""
    torch.manual_seed(0)
    model = I3AD(image_size=64, width=4, learning_rate=1e-3, visualizer=False)
    datamodule = Textures(texture_root, image_size=64, train_count=12, test_count=7, num_workers=0)
    engine = make_engine(default_root_dir=tmp_path_factory.mktemp("trained"), max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    return model.eval(), Path(engine.best_model_path), datamodule
