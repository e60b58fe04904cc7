# SPDX-License-Identifier: Apache-2.0
"""Whether a received packet can come from the SA that its descriptor names (F-DP-23, F-DP-24).

The core trusts the device completely (RX-04), so the driver looks: a handle may be that of another
live SA, and an ESP packet that the card should have opened may come as if it were any other. What
passes here fits the SA; of two SAs that the packet fits equally, the packet cannot tell.
"""

from typing import TYPE_CHECKING

from host_driver.driver.sa import Sa, SaTable
from host_driver.xfrm.flow import UDP, decode, family_of, find_upper, selector_allows
from host_driver.xfrm.headers import UDP_BYTES
from host_driver.xfrm.replay import xfrm_replay_seqhi
from proto.commands import IN
from proto.layouts import RX_HIGH_MASK
from proto.xfrm import IPPROTO_ESP, MODE_TRANSPORT

if TYPE_CHECKING:
    from host_driver.xfrm.flow import Upper

ESP_HEADER_BYTES = 8  # a shorter one names no SA
_ANY = bytes(16)


def opened_by(sas: SaTable, sa: Sa, packet: bytes) -> bool:
    """A decrypted packet: in transport mode it has the SA's addresses, and always its selector's.

    An SA without a source takes all of them, and one with a source takes others as well, as the
    card does, unless they are those of another SA.
    """
    flow = decode(packet)
    if flow is None:
        return True  # the stack will say what is wrong with it
    x = sa.x
    if x.xso.dir != IN:
        return False
    if x.props.mode == MODE_TRANSPORT:
        if flow.daddr != x.id.daddr or flow.family != x.props.family:
            return False
        if x.props.saddr not in (flow.saddr, _ANY) and sas.has_pair(flow.saddr, flow.daddr):
            return False
    upper = find_upper(packet)
    if upper is not None and upper.fragment:
        return True  # the ports of a fragment say nothing
    return selector_allows(x.sel, flow)


def esp_of(sa: Sa, packet: bytes) -> bytes:
    """ESP of crypto offload, which still carries the SPI; empty where it is no packet of the SA."""
    upper = find_upper(packet)
    if upper is None or upper.daddr != sa.x.id.daddr or _spi(packet, upper) != sa.x.id.spi:
        return b""
    return packet[_esp_at(upper) :]


def opened_as_expected(sa: Sa, esp: bytes, high: int) -> bool:
    """Whether the card took the number of `esp` for the one that it is in the host's window
    (REPLAY-08). It opens what is behind the window, of which the host would make the next cycle's;
    with the right number the ICV would have been wrong. `high` is that of layouts.RX_HIGH_MASK."""
    expected = xfrm_replay_seqhi(sa.x, int.from_bytes(esp[4:8]))
    return expected & RX_HIGH_MASK == high


def should_be_open(sas: SaTable, packet: bytes) -> bool:
    """A packet without an SA that is whole ESP of a live packet-offload SA: the card has the
    window, so opened in software a replayed packet could pass for a new one (F-DP-16)."""
    if not sas.packet_in:
        return False
    upper = find_upper(packet)
    if upper is None or upper.fragment or upper.proto not in (IPPROTO_ESP, UDP):
        return False
    if upper.end - _esp_at(upper) < ESP_HEADER_BYTES:
        return False
    sa = sas.inbound(upper.daddr, _spi(packet, upper), family_of(packet))
    if sa is None or sa.crypto or sa.deleted:
        return False
    encap = sa.x.encap
    if upper.proto == IPPROTO_ESP:
        return encap is None
    port = int.from_bytes(packet[upper.offset + 2 : upper.offset + 4])
    return encap is not None and encap.encap_dport == port


def _esp_at(upper: "Upper") -> int:
    return upper.offset + (UDP_BYTES if upper.proto == UDP else 0)


def _spi(packet: bytes, upper: "Upper") -> int:
    return int.from_bytes(packet[_esp_at(upper) :][:4])
