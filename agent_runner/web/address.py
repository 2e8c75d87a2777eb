"""Addresses: what a host's name resolves to, and which addresses no call may go to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> addresses, best first. Raises OSError."""

METADATA = frozenset(
    map(ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))
)
"""Where clouds hand a machine its credentials, beside 169.254.169.254, which is link-local."""
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_WITH_IPV4 = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))  # NAT64, and the old IPv4-compatible form


async def resolve(host: str, port: int) -> list[str]:
    """As the machine resolves names."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def is_forbidden(text: str) -> bool:
    """Link-local, unspecified, multicast, reserved, a cloud's metadata; also inside an IPv6 address."""
    try:
        address = ip_address(text)
    except ValueError:
        return True
    return not address.is_loopback and any(map(_is_forbidden, _forms(address)))


def _forms(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 ones that a gateway or the system would take it for."""
    yield address
    if isinstance(address, IPv6Address):
        yield from filter(None, (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())))
        if any(address in network for network in _WITH_IPV4):
            yield IPv4Address(int(address) & 0xFFFFFFFF)


def _is_forbidden(address: Address) -> bool:
    if address.is_link_local or address.is_unspecified or address.is_multicast or address in METADATA:
        return True
    return isinstance(address, IPv4Address) and (address.is_reserved or address in _THIS_NETWORK)
