"""Recipes: what each tensor of a training step is written in, and why that is real or emulated."""

from pennyweight.recipes.linear import Backward, LinearCasts, Product, Way, kept_between
from pennyweight.recipes.named import names
from pennyweight.recipes.operands import PRODUCTS, Operand, ProductName
from pennyweight.recipes.recipe import Phase, Recipe, Rule, unmatched
from pennyweight.recipes.schedule import recipe
from pennyweight.recipes.states import FEWEST_WRITTEN, state_cast

__all__ = [
    "FEWEST_WRITTEN",
    "PRODUCTS",
    "Backward",
    "LinearCasts",
    "Operand",
    "Phase",
    "Product",
    "ProductName",
    "Recipe",
    "Rule",
    "Way",
    "kept_between",
    "names",
    "recipe",
    "state_cast",
    "unmatched",
]
