"""The exported network behind an HTTP server."""

from selfinformed.serving.limits import Limits
from selfinformed.serving.server import Address, serve

__all__ = ["Address", "Limits", "serve"]
