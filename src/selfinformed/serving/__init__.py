"""The exported network behind an HTTP server."""

from selfinformed.serving.limits import Limits
from selfinformed.serving.server import serve

__all__ = ["Limits", "serve"]
