"""`inject` towards an HTTP/2 upstream: the tool's own field of that name never goes there, wherever it stands."""

from __future__ import annotations

from cloned_proxy.policy.terms.rule import Inject
from tests.proxy.inspection.http2.peers import Client, Upstream2
from tests.proxy.inspection.support import World, rule


async def test_it_does_not_go_as_a_trailer(h2: World, upstream: Upstream2) -> None:
    """A server that merges trailers into the head would take the tool's credential for the injected one."""
    h2.secrets.values["key"] = "sesame-123456"
    h2.allow(rule("api.test", h2.upstream.port, inject=Inject("x-api-key", "${vault:key}")))
    client = await Client.connect(h2)
    trailers = [("x-api-key", "mine"), ("x_api_key", "mine"), ("x-sum", "1")]
    answer = await client.ask(client.head(method="POST", fields=trailers[:2]), b"abc", trailers)
    assert answer.status == "200"
    (request,) = upstream.requests
    assert request.get("x-api-key") == "sesame-123456"
    assert request.trailers == [("x-sum", "1")]
    assert "mine" not in upstream.text
    await client.close()
