"""The tags of one slot: one to one, bounded, and never another name's while a fresh one is left."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from cloned_proxy.proxy.transport.name_tags import MOST_NAMES, NameTags
from tests.proxy.slots.dns import NETWORK


def test_a_name_keeps_its_address_and_another_gets_another() -> None:
    tags = NameTags(NETWORK)
    first = tags.address_of("a.example.com")
    assert tags.address_of("a.example.com") == first
    assert tags.address_of("b.example.com") != first
    assert tags.name_of(first) == "a.example.com"
    assert tags.name_of(IPv4Address("127.128.0.1")) is None


def test_a_hundred_thousand_names_take_no_more_memory_than_the_bound() -> None:
    tags = NameTags(NETWORK)
    kept = tags.address_of("kept.example.com")
    gone = tags.address_of("gone.example.com")
    given = set()
    for number in range(100_000):
        given.add(tags.address_of(f"n{number}.example.com"))
        if number % 1000 == 0:
            assert tags.name_of(kept) == "kept.example.com"  # what is dialled stays
    assert len(tags) == MOST_NAMES
    assert len(given) == 100_000, "an address came back while there were fresh ones"
    assert tags.name_of(gone) is None, "an address that was taken back stands for nothing"
    assert tags.address_of("gone.example.com") != gone


def test_where_fresh_ones_have_run_out_the_one_given_up_first_comes_back() -> None:
    network = IPv4Network("127.128.0.0/18")
    room = network.num_addresses - 512
    tags = NameTags(network, most=100)
    given = [tags.address_of(f"n{number}.example.com") for number in range(room)]
    assert len(set(given)) == room
    assert tags.address_of("next.example.com") == given[0]
    assert len(tags) == 100


def test_a_new_process_begins_elsewhere() -> None:
    firsts = {NameTags(NETWORK).address_of("a.example.com") for _ in range(20)}
    assert len(firsts) > 1


def test_a_network_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="/18 or larger"):
        NameTags(IPv4Network("127.128.0.0/24"))
