"""Warnings of other packages that a user cannot act on; they are not shown once this package is imported.

``anomalib --model anomalib_i3ad...`` imports this package after its own modules, whose warnings have passed by then.
Filters come behind all others, so that ``python -W`` shows what it names.
"""

import logging
import warnings

#: What a message begins with, as a regular expression, and its category.
NOT_THE_USERS: list[tuple[str, type[Warning]]] = [
    # timm, of how anomalib imports it
    ("Importing from timm.models.layers is deprecated", FutureWarning),
    # anomalib, of one of its models, which importing anomalib.models imports
    ("The anomalib.models.components.dinov2 package is deprecated", FutureWarning),
    # torch, of how Lightning walks through nested batches
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    # Lightning, of what the models are made for: they end by themselves, and a backbone is frozen
    ("`max_epochs` was not set", UserWarning),
    (r"Found \d+ module\(s\) in eval mode at the start of training", UserWarning),
]


def _is_the_users(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("Unexpected keys", "Not adding activation input quantizer"))


def ignore_what_is_not_the_users() -> None:
    """Install the filters."""
    for message, category in NOT_THE_USERS:
        warnings.filterwarnings("ignore", message, category, append=True)
    # of every step of an export to ONNX, where anomalib's command shows all that is told
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # timm, of a classifier's weights, which the features of a network leave out; NNCF, of every operation left in float
    for name in ("timm.models._builder", "nncf"):
        logging.getLogger(name).addFilter(_is_the_users)
