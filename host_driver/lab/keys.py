# SPDX-License-Identifier: Apache-2.0
"""The keys of a host's SAs for Wireshark, read the way root reads them: by a GETSA dump."""

from ipaddress import ip_address

from host_driver.lab.handles import HostHandle
from host_driver.lab.pcapng import EspKey
from proto import netlink
from proto.xfrm import AF_INET6, Attr, Msg
from proto.xfrm_structs import AlgoAead, UserSaInfo


def _text(address: bytes, family: int) -> str:
    return str(ip_address(address if family == AF_INET6 else address[:4]))


def esp_keys(host: HostHandle) -> list[EspKey]:
    """One entry for each AEAD SA that the host has now."""
    request = netlink.message(Msg.GETSA, bytes(40), netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP)
    found = []
    for raw in host.netlink(request):
        for message in netlink.messages(raw):
            if message.type != Msg.NEWSA:
                continue
            info = UserSaInfo.unpack(message.payload)
            attributes = netlink.attributes(message.payload, netlink.align(UserSaInfo.size()))
            value = attributes.values.get(Attr.ALG_AEAD)
            if value is None:
                continue
            algorithm = AlgoAead.unpack(value)
            key = value[AlgoAead.size() :][: algorithm.alg_key_len // 8]
            ends = _text(info.saddr, info.family), _text(info.id.daddr, info.family)
            found.append(EspKey(*ends, info.id.spi, key, algorithm.alg_icv_len // 8))
    return found
