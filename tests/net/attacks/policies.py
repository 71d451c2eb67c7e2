"""The policies under attack. `$PORT` and `$METRICS` become the proxy's own ports."""

from __future__ import annotations

from typing import Final

CONFIG: Final = """
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

_RULES: Final = """
global:
  allow:
    - api.example.com
    - other.example.com
    - "*.wild.example.org"
    - xn--mnchen-3ya.de
    - rebind.example.com
    - mixed.example.com
    - mixed6.example.com
    - alias.example.com
    - private.example.com
    - loopback.example.com
    - loopback6.example.com
    - this-network.example.com
    - metadata.example.com
    - cgnat.example.com
    - reserved.example.com
    - anycast-relay.example.com
    - ula.example.com
    - mapped.example.com
    - compatible.example.com
    - sixtofour.example.com
    - nat64.example.com
    - teredo.example.com
    - {host: own.loopback.example.com, ports: [$PORT, $METRICS], addresses: [private]}
    - {host: inspected.example.com, methods: [GET], paths: ["/ok/**"]}
    - {host: bad-certificate.example.com, methods: [GET]}
  deny:
    - blocked.wild.example.org
tools:
  control@v1: {}
  alpha@v1: {inherit_global: false, allow: [alpha.example.com]}
  beta@v1: {inherit_global: false, allow: [beta.example.com]}
"""

POLICIES: Final = {
    "base": "version: 1\nmode: enforce\nanonymous: global\n" + _RULES,
    "report": "version: 1\nmode: report\nanonymous: global\n" + _RULES,
    "named callers only": "version: 1\nmode: enforce\nanonymous: deny\n" + _RULES,
}
