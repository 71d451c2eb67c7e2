"""Without the libraries of the extra `fleet`: each command that needs them says which one, and how it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from cloned_proxy.store.approvals.approval import Proposal
from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.policyfile.policy_entry import Entry
from cloned_proxy.store.workspaces.workspace import Workspace

_RUN = """
import contextlib, io, json, sys
libraries, commands = json.loads(sys.argv[1])
from cloned_proxy.__main__ import main
for library in libraries:
    for name in [name for name in sys.modules if name.startswith(library)]:
        del sys.modules[name]
    sys.modules[library] = None  # as if it were not installed
    for words in commands:
        said = io.StringIO()
        sys.argv = ["cloned-proxy", *words]
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = main()
            except SystemExit as ended:
                code = ended.code
        print(json.dumps([library, words, code, said.getvalue()]))
"""


LIBRARIES = ("jwt", "securesystemslib", "redis")
"""One after the other, and each that was missing still is: the last one is asked for first."""


def test_each_command_says_what_is_missing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    workspace.create()
    workspace.policy_file.write_text("version: 1\ntools: {demo@v1: {}}\n")
    asked = ApprovalService(workspace).ask("demo@v1", Proposal((Entry("a.example.com"),), "demo@v1"), origin="denied")
    key = "ed25519:" + "A" * 43
    workspace.config_file.write_text(
        f"fleet: {{name: acme, store: 'unix://{tmp_path}/none.sock', trust: ['{key}=']}}\n"
    )
    commands = [
        ["fleet", "init", "acme"],
        ["fleet", "publish", "--reason", "x"],
        ["fleet", "rollback", "1.1", "--reason", "x"],
        ["fleet", "status"],
        ["fleet", "rotate"],
        ["fleet", "resume", "--reason", "x"],
        ["approvals", "key"],
        ["approvals", "approve", asked.id],
        ["approvals", "reject", asked.id],
        ["log", "--fleet"],
        ["audit", "export", "--signed"],
        ["serve"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps([LIBRARIES, commands])],
        env=os.environ | {"CLONED_WORKSPACE": str(tmp_path / "ws")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(LIBRARIES) * len(commands), done.stderr
    for library, words, code, said in outcomes:
        assert code not in {0, None}, words
        assert f"`fleet` needs {library}" in said, (words, said)
        assert "pip install 'cloned-proxy[fleet]'" in said, (words, said)
        assert "internal error" not in said, words
