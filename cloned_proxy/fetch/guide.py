"""What one tool's fetches need to know of its workspace: the policy, the way to the proxy, whom to trust."""

from __future__ import annotations

import os
import secrets
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from cloned_proxy.fetch.errors import EgressBlockedError
from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.callers.identity import Claims, mint_token
from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.host_port import in_brackets
from cloned_proxy.runner.slots.link import proxy_status
from cloned_proxy.runner.values.errors import ProxyLinkError
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import signature_of
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.keys import load_key
from cloned_proxy.store.workspaces.proxy_url import DEFAULT_PROXY, PROXY_VARIABLE
from cloned_proxy.store.workspaces.serving import another_at
from cloned_proxy.store.workspaces.workspace import Workspace

TOKEN_SECONDS: Final = 3600.0


class Guide:
    """Reads the workspace; sends nothing."""

    def __init__(
        self,
        tool: str,
        *,
        workspace: Path | None,
        policy: Path | None,
        proxy: str | None,
        extra_ca: Path | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises ValueError for what is no tool id, StoreError for a workspace that is not there or not ours."""
        self.tool: Final = tool_id(tool)
        self._place = Workspace.find(workspace)
        self._key = load_key(self._place.identity_key)
        self._policy_file = self._place.policy_path(policy)
        self._proxy = proxy
        self._extra_ca = extra_ca
        self._clock = clock
        self._run = f"fetch-{secrets.token_hex(4)}"
        self._unserved = ""
        """Why nothing may be sent: none serves, none is named, and the default address is another workspace's proxy."""
        self._policy: Policy | None = None
        self._seen: object = None

    def decide(self, method: str, url: httpx.URL) -> Decision:
        """What the policy file says now. Raises EgressBlockedError for a no, PolicyError and StoreError without one."""
        # The text that goes over the wire, without user information: that becomes a header, and no part of the host.
        host = url.raw_host.decode("ascii")
        port = f":{url.port}" if url.port is not None else ""
        text = f"{url.scheme}://{in_brackets(host)}{port}{url.raw_path.decode('ascii')}"
        decision = decide_url(self._current(), Principal(self.tool, self._run), text, method, self._clock())
        if not decision.passes:
            raise EgressBlockedError(decision)
        if self._unserved:
            raise httpx.ConnectError(self._unserved)
        return decision

    def _current(self) -> Policy:
        shelf = self._place.presets
        signature = (signature_of(self._policy_file), shelf.signature())
        if self._policy is None or signature != self._seen:
            self._seen = signature
            try:
                self._policy = load_policy(self._policy_file, self._clock(), shelf)
            except (PolicyError, StoreError):
                # As in the proxy, the last good version stays in force; that one decides again anyway.
                if self._policy is None:
                    raise
        return self._policy

    def proxy(self) -> httpx.Proxy:
        """The proxy with a fresh credential of the tool, good for `TOKEN_SECONDS`."""
        token = mint_token(self._key, Claims(self.tool, self._run, self._clock() + TOKEN_SECONDS))
        return httpx.Proxy(self._address(), auth=(self.tool, token))

    def _address(self) -> str:
        named = self._proxy or os.environ.get(PROXY_VARIABLE) or self._place.config().egress_proxy
        if named:
            return named
        try:
            return f"http://{proxy_status(self._place.root).address}"
        except ProxyLinkError as error:
            if another_at(DEFAULT_PROXY, self._place.root) is not None:  # it would see the credential
                self._unserved = str(error)
            return DEFAULT_PROXY

    def trust(self, *, inspected: bool) -> ssl.SSLContext:
        """The system's roots; the workspace CA beside them only where the proxy opens the TLS."""
        context = ssl.create_default_context()
        if self._extra_ca is not None:
            context.load_verify_locations(self._extra_ca)
        if inspected:
            from cloned_proxy.proxy.inspection.certificates.ca import certificate_path  # noqa: PLC0415
            from cloned_proxy.proxy.inspection.certificates.certificate_authority import CertificateAuthority  # noqa: PLC0415  only where it is needed

            CertificateAuthority.open(self._place.ca_directory)  # made on first use
            context.load_verify_locations(certificate_path(self._place.ca_directory))
        return context
