"""The API against its own OpenAPI, by schemathesis: requests that fit it, and requests that miss it in every place.

A fault of the server, an answer that is not described, bad data that is accepted, an operation that answers a stranger
or a method that is not there are failures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Serving
from tests.control.support import Control

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def fuzz(
    client: Control, document: dict[str, Any], directory: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    file = directory / "openapi.json"
    file.write_text(json.dumps(document))
    words = [
        str(SCHEMATHESIS),
        "run",
        str(file),
        "--url",
        client.origin,
        "--seed",
        "1",
        "--workers",
        "2",
        "--no-shrink",
    ]
    words += ["--header", f"Authorization: Bearer {client.bearer}", "--header", f"Origin: {client.origin}"]
    words += [
        "--workers",
        "2",
        "--phases",
        "coverage,fuzzing",
        "--max-examples",
        "3",
        "--warnings",
        "off",
        "--checks",
        "all",
    ]
    # Which text is a host, a path or a tool is the policy's own grammar, which no JSON schema can say.
    words += ["--exclude-checks", "positive_data_acceptance", "--request-timeout", "30"]
    return subprocess.run([*words, *arguments], cwd=directory, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_api_does_what_its_description_says(control: Control, serving: Serving, tmp_path: Path) -> None:
    client = control.client("fuzzer")
    document = client.api("/openapi.json")
    # The stream has no end; `test_api` listens to it. The fuzzer finds its own id, and revokes itself: that comes last.
    revoking = ("operation-id", "delete_devices_id")
    left_out = ("--exclude-path", "/api/v1/stream", f"--exclude-{revoking[0]}", revoking[1])
    others = fuzz(client, document, tmp_path, *left_out)
    for done in (others, fuzz(client, document, tmp_path, f"--include-{revoking[0]}", revoking[1])):
        assert done.returncode == 0, done.stdout[-5000:]
        assert "No issues found" in done.stdout
    assert "a request failed" not in serving.log()


def test_a_description_that_lies_is_found_out(client: Control, tmp_path: Path) -> None:
    document = client.api("/openapi.json")
    document["components"]["schemas"]["DeviceName"]["properties"]["name"] = {"type": "integer"}
    done = fuzz(client, document, tmp_path, "--include-path", "/api/v1/session")
    assert done.returncode == 1
    assert "violates schema" in done.stdout
