from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from cloned_proxy.local.unix_sockets import short_path


def test_a_socket_can_lie_as_deep_as_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))  # as with a TMPDIR of that kind
    path = deep / "s.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        with short_path(path) as name:
            assert len(os.fsencode(name)) <= 107
            sock.bind(name)
        assert path.is_socket()
