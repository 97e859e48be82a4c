"""How the plugin becomes known to anomalib."""

import os
import subprocess
import sys

#: anomalib and the plugin, whichever comes first.
ORDERS = (
    "import anomalib_i3ad; from anomalib.models import get_model",
    "from anomalib.models import get_model; import anomalib_i3ad",
    "import anomalib, anomalib_i3ad; from anomalib.models import get_model",
    "import anomalib_i3ad; from anomalib.data import get_datamodule; from anomalib.models import get_model",
    "import anomalib_i3ad; from anomalib.engine import Engine; from anomalib.models import get_model",
)
KNOWN = """
from anomalib.data import get_datamodule
from anomalib.engine import Engine
from anomalib.models import list_models
assert type(get_model("ssim_ae")) is anomalib_i3ad.SsimAe
assert Engine.export.__code__.co_name == "export_beside"
assert "I3AD" in list_models("pascal")
assert type(get_datamodule({"class_path": "MVTec"})) is anomalib_i3ad.MVTec
"""
#: A process for each order, forked from one that has imported what takes long.
IN_FORKS = """
import os, sys, traceback
import lightning.pytorch, pandas, torchvision
assert not any(name.startswith("anomalib") for name in sys.modules)
for program in sys.argv[1:]:
    if not os.fork():
        try:
            exec(program, {})
        except BaseException:
            print(program, traceback.format_exc())
        sys.stdout.flush()
        os._exit(0)
    if os.wait()[1]:
        print(program, "ended otherwise")
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_any_order_of_imports() -> None:
    assert not run(IN_FORKS, *(order + KNOWN for order in ORDERS))


def test_names_complete_before_they_are_loaded() -> None:
    import anomalib_i3ad

    assert {"I3AD", "FeatureI3AD", "MVTec", "register"} <= set(dir(anomalib_i3ad))


def test_neither_the_package_nor_inspect_imports_torch_or_anomalib() -> None:
    code = "import sys, anomalib_i3ad, anomalib_i3ad.cli, anomalib_i3ad.deploy.command_line; print(*sys.modules)"
    assert not {"torch", "anomalib", "pandas"} & set(run(code).split())
