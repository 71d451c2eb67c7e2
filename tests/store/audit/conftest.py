"""The place of a log, its writer, and a collector to which it is exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.store.audit.audit_writer import AuditWriter
from tests.store.audit.collector import Receiver


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def writer(path: Path) -> Iterator[AuditWriter]:
    writer = AuditWriter(path, queue=100, retention_days=100_000)
    yield writer
    writer.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()
