"""`listen:` of config.yaml: what stands between this proxy and its clients."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field

from cloned_proxy.store.files.strict_model import StrictModel

type Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"write an address or a network such as 10.0.0.5 or 10.0.0.0/28 ({error})") from error
    if network.prefixlen == 0:
        raise ValueError(f"{text} is everybody; name the addresses of your load balancer, such as 10.0.0.0/28")
    return text


class ListenSettings(StrictModel):
    """A load balancer in front."""

    proxy_protocol_from: list[Annotated[str, AfterValidator(_network)]] = Field(default_factory=list)
    """Addresses and networks whose connections begin with a PROXY protocol header, version 1 or 2. From there none is
    served without one; from elsewhere none is believed."""

    @property
    def networks(self) -> tuple[Network, ...]:
        """The same, parsed."""
        return tuple(ipaddress.ip_network(text) for text in self.proxy_protocol_from)
