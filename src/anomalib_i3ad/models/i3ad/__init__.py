"""I3AD: iterative image inpainting with a structural-similarity mask."""

from .lightning_model import I3AD

__all__ = ["I3AD"]
