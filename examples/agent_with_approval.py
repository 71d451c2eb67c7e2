"""An agent that meets a refusal, asks a person, and goes on after the yes.

    python agent_with_approval.py https://api.example.com/

Needs `cloned-proxy serve` in the project. The person sees the request in the control UI, on a paired phone, or with
`cloned-proxy approvals list`. Nothing in the policy changes before the yes, and what it grants ends by itself.
"""

from __future__ import annotations

import sys

import httpx

from cloned_proxy import ApprovalError, EgressBlockedError, SafeFetch, request_egress

TOOL = "release.notes@v1"


def fetch(url: str) -> str:
    """The body behind `url`. Raises EgressBlockedError where the answer is no, ApprovalError where none can be had."""
    with SafeFetch(TOOL) as safe:
        try:
            return safe.get(url).text
        except EgressBlockedError as blocked:
            print(f"refused: {blocked.reason}", file=sys.stderr)
            asked = request_egress(
                [httpx.URL(url).netloc.decode()], tool_id=TOOL, lasting="30m", reason="release notes"
            )
            print(f"asked a person: {asked.id}", file=sys.stderr, flush=True)
            if asked.wait().state != "approved":
                raise
        return safe.get(url).text


if __name__ == "__main__":
    try:
        print(fetch(sys.argv[1]))
    except (EgressBlockedError, ApprovalError) as error:
        sys.exit(str(error))
