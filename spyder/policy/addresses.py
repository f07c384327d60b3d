"""Which IP addresses may be dialled: globally reachable unicast and nothing else.

The ranges are those of the IANA special-purpose registries (RFC 6890 and its registries as of 2026) together
with multicast, reserved space and the well-known metadata addresses. `ipaddress.is_global` is not enough: it says
yes to NAT64, 6to4 and IPv4-compatible addresses that embed a private one, and to multicast. IPv6 is judged by an
allow rule: only 2000::/3 is unicast (RFC 4291, section 2.4), less what is special in it; an address that embeds an
IPv4 address through a translator is refused, since where it leads is not ours to see.
"""

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final

_BLOCKED_IPV4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network, RFC 791
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # shared address space, RFC 6598
        "127.0.0.0/8",  # loopback, RFC 1122
        "168.63.129.16/32",  # platform service of a large cloud
        "169.254.0.0/16",  # link-local, RFC 3927, and cloud metadata
        "172.16.0.0/12",  # private, RFC 1918
        "192.0.0.0/24",  # protocol assignments, RFC 6890
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.31.196.0/24",  # AS112, RFC 7535
        "192.52.193.0/24",  # AMT, RFC 7450
        "192.88.99.0/24",  # 6to4 relay anycast, RFC 7526
        "192.168.0.0/16",  # private, RFC 1918
        "192.175.48.0/24",  # AS112, RFC 7534
        "198.18.0.0/15",  # benchmarking, RFC 2544
        "198.51.100.0/24",  # documentation, RFC 5737
        "203.0.113.0/24",  # documentation, RFC 5737
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved, RFC 1112, and limited broadcast
    )
)
_UNICAST_IPV6: Final = ipaddress.IPv6Network("2000::/3")
_BLOCKED_IPV6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments (Teredo, ORCHID, benchmarking ...), RFC 2928
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4, RFC 3056
        "2620:4f:8000::/48",  # AS112, RFC 7534
        "3fff::/20",  # documentation, RFC 9637
    )
)


class AddressPolicy:
    """Judges addresses. Immutable but for a bounded cache; thread-safe."""

    def __init__(self, *, allow_private: bool = False, allow: Iterable[str] = ()) -> None:
        self._allow_private = allow_private
        self._allowed = tuple(ipaddress.ip_network(text, strict=False) for text in allow)
        self.may_dial = functools.lru_cache(maxsize=65536)(self._judge)
        """Tell whether an address, given as text, may be dialled."""

    def _judge(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # the kernel would dial it as IPv4
        if self._allow_private or any(address in network for network in self._allowed):
            return True
        if isinstance(address, ipaddress.IPv4Address):
            return not any(address in network for network in _BLOCKED_IPV4)
        return address in _UNICAST_IPV6 and not any(address in network for network in _BLOCKED_IPV6)
