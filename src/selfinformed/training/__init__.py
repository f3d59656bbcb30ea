"""Cached features, headroom, fitting, search."""

from selfinformed.training.features import FeatureStore
from selfinformed.training.fitting import History, fit
from selfinformed.training.headroom import Headroom, probe
from selfinformed.training.recipe import Recipe
from selfinformed.training.searching import SearchResult, search

__all__ = ["FeatureStore", "Headroom", "History", "Recipe", "SearchResult", "fit", "probe", "search"]
