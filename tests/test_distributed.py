"""Training on several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anomalib_i3ad import I3AD, FeatureI3AD, Textures
from model_tester import make_engine


@pytest.mark.parametrize("name", ["I3AD", "FeatureI3AD"])
def test_two_processes_end_with_the_same_weights_and_thresholds(name: str, texture_root: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("fit_on_two_processes.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(texture_root), str(tmp_path), name],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{script.parent}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(results) == 2, done.stderr[-2000:]
    assert results[0] == results[1]
    _, steps, _, mean, candidates, *calibrated = results[0].split()
    assert steps == "4"  # two epochs of five images a process, three at a time
    assert all(0 < float(value) < 10 for value in calibrated)
    if name == "FeatureI3AD":
        datamodule = Textures(texture_root, image_size=64, train_count=12, test_count=7, num_workers=0)
        datamodule.setup()
        model = FeatureI3AD(image_size=96, width=4, initial_grid=2)
        model.model.features.load_pretrained(64, 64)
        images = torch.stack([item.image.as_subclass(torch.Tensor) for item in datamodule.train_data])
        assert len(images) == 10
        with torch.no_grad():
            expected = model.model.cells_of(model.pre_processor(images)).mean(dim=(0, 2, 3)).abs().mean().item()
        assert float(mean) == pytest.approx(expected, rel=1e-3)  # of all images, not of one process's
        assert int(candidates) == 10 * 12 * 12  # as well


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trains_on_a_gpu_and_exports_from_it(textures: Textures, tmp_path: Path) -> None:
    for model in (
        I3AD(image_size=64, width=4, adversarial_weight=1.0),
        FeatureI3AD(image_size=96, width=4, initial_grid=2),
    ):
        engine = make_engine(accelerator="gpu", precision="bf16-mixed")
        engine.fit(model, datamodule=textures)
        assert 0 < model.post_processor.image_threshold < 10
        model.cuda().to_openvino(tmp_path / model.name)
        model.to_onnx(tmp_path / model.name)
        assert model.device.type == model.model.mask_threshold.device.type == "cuda"
        assert engine.export(model, "openvino", tmp_path, ckpt_path=engine.best_model_path).is_file()
