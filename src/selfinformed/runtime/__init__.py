"""Errors, whole-or-absent files, progress, devices."""

from selfinformed.runtime.errors import SelfInformedError

__all__ = ["SelfInformedError"]
