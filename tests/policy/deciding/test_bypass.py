from __future__ import annotations

import ipaddress

import pytest

from cloned_proxy.policy.deciding.bypass import read_bypass
from cloned_proxy.policy.terms.rule import Host

TEN = ipaddress.ip_address("10.1.2.3")
OUTSIDE = ipaddress.ip_address("93.184.216.10")


@pytest.mark.parametrize(
    ("entry", "name", "covered"),
    [
        ("intranet.example", "intranet.example", True),
        ("Intranet.Example.", "intranet.example", True),
        ("intranet.example", "a.intranet.example", False),
        (".corp.example", "a.corp.example", True),
        (".corp.example", "a.b.corp.example", True),
        (".corp.example", "corp.example", False),
        (".corp.example", "evilcorp.example", False),
        ("münchen.de", "xn--mnchen-3ya.de", True),
        ("other.example", "localhost", True),  # this machine, whatever is written
        ("other.example", "a.localhost", True),
    ],
)
def test_names(entry: str, name: str, covered: bool) -> None:
    assert read_bypass([entry]).covers_name(Host(name)) is covered


def test_addresses() -> None:
    bypass = read_bypass(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])
    assert bypass.beyond((TEN, OUTSIDE)) == (OUTSIDE,)
    for text in ("192.0.2.7", "2001:db8::1", "127.0.0.1", "127.9.9.9", "::1"):
        assert bypass.covers(ipaddress.ip_address(text))
    assert not bypass.covers(ipaddress.ip_address("192.0.2.8"))
    # A literal is an address, never a name.
    assert not read_bypass(["10.1.2.3"]).covers_name(Host("10.1.2.3", TEN))


@pytest.mark.parametrize(
    ("entry", "fix"),
    [
        ("*", "without `upstream` all is direct"),
        ("*.corp.example", "write .corp.example|write .example.com"),
        ("10.0.0.5/8", "10.0.0.0/8"),
        ("http://intranet.example", "no network|without scheme"),
        ("intranet.example:80", "without scheme and port"),
        (".10.1.2.3", "no suffix"),
        ("", "without scheme and port"),
        ("0x7f.1", "without scheme and port"),
    ],
)
def test_what_means_nothing_is_an_error_that_names_it(entry: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        read_bypass([entry])
