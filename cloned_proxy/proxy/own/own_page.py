"""What `http://cloned.internal/` says to whoever looks there, mostly a model that was sent by a refusal."""

from __future__ import annotations

from typing import Final

from cloned_proxy.policy.hints.hint_inside import ASK_PROGRAM
from cloned_proxy.policy.terms.vocabulary import OWN_HOST

REQUESTS_PATH: Final = "/v1/egress/requests"
_PAGE: Final = f"""\
This is cloned-proxy, which decides what leaves this sandbox. You are {{tool}}.

What no rule allows is refused with 403. Ask the person who owns the policy, and wait for the answer:

  {ASK_PROGRAM} HOST[:PORT] "why it is needed"

Without that program:

  curl -sS http://{OWN_HOST}{REQUESTS_PATH} -d '{{{{"domains": ["HOST"], "reason": "why it is needed"}}}}'
  curl -sS http://{OWN_HOST}{REQUESTS_PATH}/ID

The first answers with the ID of the request, the second with its state: pending, approved, rejected or expired.
"""


def own_page(tool: str) -> str:
    """Plain text in ASCII, as tool ids are."""
    return _PAGE.format(tool=tool)
