"""Names that people choose, and names that carry data."""

from __future__ import annotations

import pytest

from cloned_proxy.policy.paths.suspicion import bursts, look_alike, random_label

CHOSEN = """
d111111abcdef8.cloudfront.net my-company-production-assets.s3.amazonaws.com raw.githubusercontent.com
generativelanguage.googleapis.com ec2-203-0-113-25.compute-1.amazonaws.com objects-origin.githubusercontent.com
internationalization.example.com files.packages.org login.microsoftonline.com rr3---sn-4g5ednsl.googlevideo.com
registry-1.example.org pkg-containers.githubusercontent.com production.cloudflare.docker.com oauth2.googleapis.com
cdn-lfs-us-1.huggingface.co storage2024archive.example.com strengthsfinder-growth.example.com
xn--fiqs8s.example transcontinental.example.com 192.0.2.1
"""

CARRYING = """
mfrggzdfmztwq2lk.evil.test 3f2a9c77b1d04e5f8a6b.evil.test deadbeefcafebabe0123456789abcdef.x.test
550e8400-e29b-41d4-a716-446655440000.x.test ghjkqwrtpzxcvbnmlkjh.x.test nbswy3dpeb3w64tmmqfa.x.test
c2vjcmv0lwrhdgetzxhmawx0cmf0ag4.t.test aGVsbG8td29ybGQtdGhpcy1pcy1kYXRh.t.test
www.da39a3ee5e6b4b0d3255bfef95601890afd80709.t.test
"""


@pytest.mark.parametrize("name", CHOSEN.split())
def test_a_chosen_name_is_not_suspicious(name: str) -> None:
    assert random_label(name) is None


@pytest.mark.parametrize("name", CARRYING.split())
def test_a_name_that_carries_data_is(name: str) -> None:
    assert random_label(name) is not None


def test_many_names_for_one_use_each_are_a_burst_and_a_busy_family_is_not() -> None:
    once = {f"n{number}.t.example.com": 1 for number in range(12)}
    busy = {f"shard{number}.cdn.example.com": 50 for number in range(12)}
    few = {f"a{number}.few.example.com": 1 for number in range(9)}
    apart = {f"a{number}.test": 1 for number in range(50)}
    assert bursts(once | busy | few | apart) == {"t.example.com": sorted(once)}


KNOWN = {"api.stripe.com", "github.com", "my-registry.example.com"}


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("api.stripe.com.evil.example", "api.stripe.com"),
        ("api-stripe-com.evil.example", "api.stripe.com"),
        ("api.stripe.com-login.evil.example", "api.stripe.com"),
        ("github.com.evil.example", "github.com"),
        ("api.stripe.com", None),
        ("eu.api.stripe.com", None),
        ("github.company.example", None),
        ("raw.github.com", None),
        ("github.com.github.com", None),
        ("com.evil.example", None),
        ("my.registry.example.com", None),
    ],
)
def test_a_name_that_begins_with_another_hosts_name_is_a_look_alike(name: str, original: str | None) -> None:
    assert look_alike(name, KNOWN) == original
