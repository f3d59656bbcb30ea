"""Cached features, headroom, fitting, search."""

from selfinformed.training.choices import Choice
from selfinformed.training.features import FeatureStore
from selfinformed.training.fitting import fit
from selfinformed.training.headroom import Headroom, probe
from selfinformed.training.recipe import Recipe
from selfinformed.training.searching import SearchResult, search
from selfinformed.training.spaces import Space
from selfinformed.training.stepping import History
from selfinformed.training.structures import Structure

__all__ = ["Choice", "FeatureStore", "Headroom", "History", "Recipe", "SearchResult", "Space", "Structure", "fit", "probe", "search"]
