"""The policies under attack. `$PORT` and `$METRICS` become the ports of the proxy, `$INSIDE` the path of a tunnel."""

from __future__ import annotations

import os
from typing import Final

_CONFIG: Final = """
proxy:
  head_timeout: 1.0
  keep_alive_timeout: 0.3
  client_hello_timeout: 1.0
  resolve_timeout: 1.0
  connect_timeout: 1.0
  response_timeout: 2.0
  resolver_cache_seconds: 0.0
"""
"""Short times, so that an attack that waits is over soon, and no cache: a rebinding name must be asked again."""

CONFIG_OF_PLANE: Final = _CONFIG.replace("resolver_cache_seconds: 0.0", "resolver_cache_seconds: 60.0")
"""The native plane grants again for as long as the addresses are known: with no cache it would grant nothing."""

CONFIG: Final = CONFIG_OF_PLANE if os.environ.get("PLANE") == "require" else _CONFIG

_RULES: Final = """
global:
  allow:
    - {host: api.example.com$INSIDE}
    - {host: other.example.com$INSIDE}
    - {host: silent.example.com$INSIDE}
    - {host: "*.wild.example.org"$INSIDE}
    - {host: xn--mnchen-3ya.de$INSIDE}
    - {host: rebind.example.com$INSIDE}
    - {host: mixed.example.com$INSIDE}
    - {host: mixed6.example.com$INSIDE}
    - {host: alias.example.com$INSIDE}
    - {host: private.example.com$INSIDE}
    - {host: denied-network.example.com$INSIDE}
    - {cidr: 10.9.0.0/16}
    - {host: loopback.example.com$INSIDE}
    - {host: loopback6.example.com$INSIDE}
    - {host: this-network.example.com$INSIDE}
    - {host: metadata.example.com$INSIDE}
    - {host: cgnat.example.com$INSIDE}
    - {host: reserved.example.com$INSIDE}
    - {host: anycast-relay.example.com$INSIDE}
    - {host: ula.example.com$INSIDE}
    - {host: mapped.example.com$INSIDE}
    - {host: compatible.example.com$INSIDE}
    - {host: sixtofour.example.com$INSIDE}
    - {host: nat64.example.com$INSIDE}
    - {host: teredo.example.com$INSIDE}
    - {host: own.loopback.example.com, ports: [$PORT, $METRICS], addresses: [private]$INSIDE}
    - {host: ssh.example.com, ports: [22, 80, 443], protocols: [ssh]}
    - {host: inspected.example.com, methods: [GET], paths: ["/ok/**"]}
    - {host: bad-certificate.example.com, methods: [GET]}
  deny:
    - blocked.wild.example.org
    - {cidr: 93.184.217.70/31, except: [93.184.217.71]}
tools:
  control@v1: {}
  alpha@v1: {inherit_global: false, allow: [{host: alpha.example.com$INSIDE}]}
  beta@v1: {inherit_global: false, allow: [{host: beta.example.com$INSIDE}]}
"""

_MODES: Final = {
    "base": "version: 1\nmode: enforce\nanonymous: global\n",
    "report": "version: 1\nmode: report\nanonymous: global\n",
    "named callers only": "version: 1\nmode: enforce\nanonymous: deny\n",
}
_INSIDE: Final = {"gate": "", "inspected": ', paths: ["/**"]'}
"""What a rule adds so that a tunnel takes this path: every path is allowed, but only who looks inside can tell."""

POLICIES: Final = {
    way: {name: head + _RULES.replace("$INSIDE", inside) for name, head in _MODES.items()}
    for way, inside in _INSIDE.items()
}
"""By the path of the proxy, then by name: the same verdicts of the same rules."""
