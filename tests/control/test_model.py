"""The local model in the API: none, one that is said to run, and what pipelines made with it."""

from __future__ import annotations

import json

from tests.cli.program import Workspace
from tests.control.support import Control


def test_what_pipelines_made_is_told_and_a_hostile_manifest_is_only_text(
    browser: Control, workspace: Workspace
) -> None:
    found = browser.api("/model")
    assert (found["running"], found["engine"], found["health"], found["metrics"]) == (False, None, "no answer", {})
    manifests = {
        "20260101-000000-one-cafe0001": {"title": "<b>One", "costs": {"completion_tokens": 7, "seconds": 2}},
        "20260101-000001-two-cafe0002": {"title": ["x"], "truncated": True, "costs": {"completion_tokens": "7"}},
        "20260101-000002-odd-cafe0003": [],
    }
    for name, manifest in manifests.items():
        folder = workspace.path / "artifacts" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    two, one = browser.api("/model")["reports"]
    assert (one["title"], one["tokens"], one["seconds"], one["truncated"]) == ("<b>One", 7, 2.0, False)
    assert (two["title"], two["tokens"], two["seconds"], two["truncated"]) == ("['x']", None, None, True)


def test_a_model_that_ended_and_a_damaged_note_of_it_are_no_fault(browser: Control, workspace: Workspace) -> None:
    note = workspace.path / "run" / "llm.json"
    note.parent.mkdir(exist_ok=True)
    note.write_text(json.dumps({"container": "c", "relay_pid": 2**22 + 1, "relay_started": 1}))
    found = browser.api("/model")
    assert (found["running"], found["engine"]) == (False, "localai")
    note.write_text("{")
    assert browser.api("/model")["engine"] is None
