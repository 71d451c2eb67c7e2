"""The place of a log, and its writer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.store.audit.audit_writer import AuditWriter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def writer(path: Path) -> Iterator[AuditWriter]:
    writer = AuditWriter(path, queue=100, retention_days=100_000)
    yield writer
    writer.close()
