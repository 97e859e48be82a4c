"""Export to OpenVINO: the graph, its compression, and the check against the model it came from."""

from .openvino import export

__all__ = ["export"]
