"""Export to OpenVINO: the graph, its compression, and the check against the model it came from."""

from .to_openvino import export

__all__ = ["export"]
