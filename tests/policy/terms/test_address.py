from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.terms.address import classify

CLASSES = {
    "public": "1.1.1.1 93.184.216.34 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 "
    "198.17.255.255 198.20.0.0 223.255.255.255 2606:4700::1111 2a00::1 2001:200::1 2001:4860:4860::8888",
    "loopback": "127.0.0.1 127.255.255.255 ::1",
    "private": "10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 fc00::1 fdff::1",
    "cgnat": "100.64.0.0 100.127.255.255",
    "link_local": "169.254.0.1 169.254.255.255 fe80::1 febf::1",
    "metadata": "169.254.169.254 169.254.170.2 100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254",
    "multicast": "224.0.0.1 239.255.255.255 ff02::1",
    "reserved": "0.0.0.0 0.1.2.3 192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 "
    "240.0.0.1 255.255.255.255 :: 100::1 2001:1::1 2001:20::1 2001:db8::1 3fff::1 5f00::1 fec0::1 4000::1 200::1",
    "embedded_ipv4": "::ffff:1.1.1.1 ::ffff:127.0.0.1 ::1.1.1.1 ::ffff:0:1.1.1.1 64:ff9b::7f00:1 64:ff9b:1::1 2002::1 "
    "2001::1 2a00::5efe:7f00:1",
}


@pytest.mark.parametrize(("text", "kind"), [(text, kind) for kind, texts in CLASSES.items() for text in texts.split()])
def test_class(text: str, kind: str) -> None:
    assert classify(ip_address(text)) == kind


@given(st.ip_addresses(v=6))
def test_nothing_outside_global_unicast_is_public(address: IPv6Address) -> None:
    assert int(address) >> 125 == 1 or classify(address) != "public"


@given(st.ip_addresses())
def test_what_the_standard_library_calls_special_is_never_public(address: IPv6Address) -> None:
    assert address.is_global or classify(address) != "public"
