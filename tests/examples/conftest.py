"""The examples meet the same fake internet, engine and images as the rest."""

from tests.e2e.conftest import world
from tests.runner.conftest import engine, images

__all__ = ["engine", "images", "world"]
