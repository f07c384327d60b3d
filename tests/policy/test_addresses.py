"""Which addresses may be dialled: by the registries, whatever form an address takes."""

import ipaddress
import random

import pytest

from spyder.policy.addresses import AddressPolicy

GLOBAL = [
    "8.8.8.8",
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "203.0.114.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",  # the kernel dials it as IPv4
    "2001:200::1",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2003::1",
    "2606:4700::1111",
    "2620:4f:8001::1",
    "3ffe::1",
]

SPECIAL = [
    # reliability, E11
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",  # metadata of a cloud, inside 100.64.0.0/10
    "100.127.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.0.192",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    # reliability, E12
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",  # IPv4-translated, RFC 2765
    "::127.0.0.1",  # IPv4-compatible, RFC 4291, section 2.5.5.1
    "::8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::",
    "64:ff9b:1::a00:1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",  # Teredo
    "2001:0:7f00:1::1",
    "2001:2::1",
    "2001:3::1",
    "2001:4:112::1",
    "2001:10::1",
    "2001:20::1",
    "2001:30::1",
    "2001:1ff:ffff::1",
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4
    "2002:808:808::",
    "2620:4f:8000::1",
    "3fff::1",
    "3fff:fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]

NOT_ADDRESSES = [
    "",
    " ",
    "localhost",
    "0",
    "1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "017700000001",
    "0177.0.0.1",
    "08.8.8.8",
    "8.8.8.8 ",
    "8.8.8.8\n",
    "8.8.8.8\0",
    "8.8.8.8/32",
    "8.8.8.8:80",
    "[2606:4700::1111]",
    "8.8.8",
    "256.1.1.1",
    "٨.8.8.8",
    "2606:4700:::1111",
]


@pytest.mark.parametrize("address", GLOBAL)
def test_global_unicast_may_be_dialled(address: str) -> None:
    """Also just outside of every special range."""
    assert AddressPolicy().may_dial(address)


@pytest.mark.parametrize("address", SPECIAL)
def test_special_purpose_addresses_may_not(address: str) -> None:
    """Whatever a DNS record says: private, local, documentation, multicast, and IPv4 in disguise."""
    assert not AddressPolicy().may_dial(address)


@pytest.mark.parametrize("text", NOT_ADDRESSES)
@pytest.mark.parametrize("allow_private", [False, True])
def test_what_is_no_address_may_never_be_dialled(text: str, allow_private: bool) -> None:
    """Forms that the C library would read as an address (all of them reached loopback) are none to us."""
    assert not AddressPolicy(allow_private=allow_private).may_dial(text)


def test_a_scope_makes_no_address_dialled() -> None:
    """A link-local address with an interface is still link-local."""
    assert not AddressPolicy().may_dial("fe80::1%eth0")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1", "fd00::1"])
def test_a_lab_may_allow_all(address: str) -> None:
    """`crawling.allow_private_addresses`."""
    assert AddressPolicy(allow_private=True).may_dial(address)


def test_an_intranet_may_allow_its_own() -> None:
    """`crawling.allow_addresses`: networks and single addresses of either family, and nothing beside them."""
    policy = AddressPolicy(allow=["10.1.0.0/16", "fd00:1::/32", "127.0.0.2", "192.168.7.9/24"])
    allowed = ["10.1.2.3", "::ffff:10.1.2.3", "fd00:1::1", "127.0.0.2", "192.168.7.1", "8.8.8.8"]
    refused = ["10.2.0.1", "fd00:2::1", "127.0.0.1", "192.168.8.1"]
    assert [address for address in [*allowed, *refused] if policy.may_dial(address)] == allowed


def test_a_network_that_is_none_is_refused_at_the_start() -> None:
    """A policy that cannot be read is no policy."""
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33"):
        AddressPolicy(allow=["10.0.0.0/33"])


def test_nothing_is_allowed_that_python_knows_as_private() -> None:
    """The standard library's registries are a lower bound: it allows more than we do, never less."""
    policy, drawn = AddressPolicy(), random.Random(1)
    for _ in range(20_000):
        for address in (ipaddress.IPv4Address(drawn.getrandbits(32)), ipaddress.IPv6Address(drawn.getrandbits(128))):
            if policy.may_dial(str(address)):
                assert address.is_global
                assert not address.is_multicast
                assert not address.is_reserved


def test_verdicts_are_remembered_within_bounds() -> None:
    """The cache that saves the arithmetic does not grow without end."""
    policy = AddressPolicy()
    for number in range(70_000):
        policy.may_dial(str(ipaddress.IPv4Address(number << 8)))
    assert policy.may_dial.cache_info().currsize <= 65_536
