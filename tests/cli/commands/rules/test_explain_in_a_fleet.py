"""`explain` on a replica: its policy is edited where it is published, so the next step is taken there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.cli.commands.rules.explain_verdict import explained
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.workspaces.workspace import Workspace

POLICY = b"version: 1\nanonymous: global\nglobal: {allow: [a.example], deny: [b.example]}\n"


@pytest.mark.parametrize(
    ("replica", "host", "begins", "ends"),
    [
        (True, "new.example", "where the fleet's policy is published: cloned-proxy allow", "--reason TEXT"),
        (True, "b.example", "where the fleet's policy is published: cloned-proxy remove", "--reason TEXT"),
        (True, "a.example", "", ""),
        (False, "new.example", "cloned-proxy allow new.example", "new.example"),
    ],
)
def test_the_next_step(tmp_path: Path, *, replica: bool, host: str, begins: str, ends: str) -> None:
    workspace = Workspace(tmp_path / ".cloned")
    workspace.create()
    trust = SigningKey.generate().public
    workspace.config_file.write_text(f"fleet: {{name: acme, store: 'redis://127.0.0.1:1', trust: ['{trust}']}}\n")
    workspace.fleet_directory.mkdir(mode=0o700, exist_ok=True)
    (workspace.fleet_policy if replica else workspace.policy_file).write_bytes(POLICY)
    told = explained(
        f"https://{host}/", tool=None, method=None, resolve=False, workspace=workspace.root, policy_file=None
    )
    assert told["hint"].startswith(begins)
    assert told["hint"].endswith(ends)
    assert bool(told["hint"]) == bool(begins)
