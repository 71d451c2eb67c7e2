"""The wheel that was built, and an environment with it and nothing but the packages that it requires itself.

`make test-wheel` names both and starts these tests away from the checkout; the suite on the source does not collect
them (`tests/conftest.py`), because it has no wheel to ask.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import origin as origin  # noqa: PLC0414  a fixture of these tests, too
from tests.cli.conftest import workspace as workspace  # noqa: PLC0414


@pytest.fixture(scope="session")
def wheel() -> Path:
    return Path(os.environ["TESTED_WHEEL"])


@pytest.fixture(scope="session")
def bare() -> Path:
    """The directory of its programs. No extra of ours is in it, and nothing that only a test needs."""
    return Path(os.environ["BARE_ENV"]) / "bin"
