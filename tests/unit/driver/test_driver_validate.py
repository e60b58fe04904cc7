# SPDX-License-Identifier: Apache-2.0
"""What the driver refuses before it asks the card: errno, and a text with offer, limit, object."""

import errno

import msgspec
import pytest

from host_driver.driver.validate import check_policy, check_state
from host_driver.ops import Extack
from host_driver.xfrm.state import (
    OFFLOAD_CRYPTO,
    OFFLOAD_PACKET,
    Aead,
    Algorithm,
    ReplayEsn,
)
from proto import commands as c
from proto.caps import PROFILES
from proto.status import OffloadError
from proto.xfrm import AF_INET, AF_INET6, MODE_TUNNEL, POLICY_IN, STATE_ESN
from proto.xfrm_structs import (
    EncapTmpl,
    LifetimeCfg,
    ReplayStateEsn,
    UserTmpl,
    XfrmId,
    XfrmMark,
    XfrmSelector,
)

FULL, CX6DX = PROFILES["full"], PROFILES["cx6dx"]
GCM = "rfc4106(gcm(aes))"
ANY = bytes(16)


def aead(key_bytes=20, icv_bits=128, name=GCM):
    return Aead(name, bytearray(key_bytes), icv_bits, key_bytes * 8)


def esn(window):
    return ReplayEsn(ReplayStateEsn(128, replay_window=window), [0] * 128)


def refusal(x, caps):
    with pytest.raises(OffloadError) as caught:
        check_state(x, caps)
    return caught.value.errno, caught.value.text


@pytest.mark.parametrize(
    ("changes", "caps", "text"),
    [
        ({"aead": aead(icv_bits=80)}, FULL,
         "SA 0x1000: ICV of 80 bits is not offered, card takes 64, 96, 128"),
        ({"aead": aead(icv_bits=96)}, CX6DX,
         "SA 0x1000: ICV of 96 bits is not offered, card takes 128"),
        ({"aead": aead(28)}, CX6DX,
         "SA 0x1000: AES key of 192 bits (without salt) is not offered, card takes 128, 256"),
        ({"aead": aead(name="rfc4543(gcm(aes))")}, FULL,
         "SA 0x1000: algorithm rfc4543(gcm(aes)) is not offered, card takes rfc4106(gcm(aes))"),
        ({"aead": None}, FULL,
         "SA 0x1000: no AEAD algorithm was given, card takes rfc4106(gcm(aes))"),
        ({"ealg": Algorithm("cbc(aes)", bytearray(16))}, FULL,
         "SA 0x1000: algorithm cbc(aes) is not offered, card takes rfc4106(gcm(aes))"),
        ({"encap": EncapTmpl(2, 4500, 4500)}, CX6DX,
         "SA 0x1000: UDP encapsulation is not offered by card cx6dx"),
        ({"encap": EncapTmpl(7, 4500, 4500)}, FULL,
         "SA 0x1000: encapsulation type 7 is not offered, card takes ESP in UDP (2)"),
        ({"tfcpad": 100}, FULL, "SA 0x1000: TFC padding to 100 bytes is not offered"),
        ({}, PROFILES["crypto-only"], "SA 0x1000: card crypto-only has no packet offload"),
        ({"mark": XfrmMark(5, 0xFF)}, FULL, "SA 0x1000: mark 0x5 cannot be matched by the card"),
        ({"if_id": 9}, FULL, "SA 0x1000: if_id 0x9 cannot be matched by the card"),
        ({"sel": XfrmSelector(ifindex=3)}, FULL,
         "SA 0x1000: selector device 0x3 cannot be matched by the card"),
        ({"lft": LifetimeCfg(hard_packet_limit=0)}, FULL,
         "SA 0x1000: a hard limit of 0 lets no packet pass, card takes 1 or more"),
        ({"replay_esn": esn(96)}, CX6DX,
         "SA 0x1000: replay window 96 is not offered, card takes 32, 64, 128, 256"),
    ],
)  # fmt: skip
def test_states_are_refused_with_reasons(make_state, changes, caps, text) -> None:
    assert refusal(make_state(0x1000, c.IN, **changes), caps) == (errno.EINVAL, text)


def test_windows_beyond_the_card(make_state) -> None:
    small = msgspec.structs.replace(FULL, replay_window_max=64)
    x = make_state(0x1000, c.IN, replay_esn=esn(128))
    assert refusal(x, small)[1].endswith("card takes at most 64")
    check_state(make_state(0x1000, c.OUT, replay_esn=esn(128)), small)


def test_esn_needs_capability_and_window(make_state) -> None:
    x = make_state(0x1000, c.IN, replay_esn=esn(0))
    x.props.flags = STATE_ESN
    assert "ESN needs a replay window" in refusal(x, FULL)[1]
    assert "ESN is not offered" in refusal(x, msgspec.structs.replace(FULL, esn=False))[1]


@pytest.mark.parametrize(("mode", "name"), [(4, "beet"), (5, "iptfs"), (77, "77")])
@pytest.mark.parametrize("offload", [OFFLOAD_CRYPTO, OFFLOAD_PACKET])
def test_only_transport_and_tunnel_mode(make_state, mode, name, offload) -> None:
    """MLX-09."""
    x = make_state()
    x.props.mode, x.xso.type = mode, offload
    assert f"mode {name} is not offered, card takes transport, tunnel" in refusal(x, FULL)[1]


def test_tunnel_mode_needs_a_capability_and_two_ends(make_state, make_policy) -> None:
    plain = msgspec.structs.replace(FULL, tunnel=False)
    x = make_state()
    x.props.mode = MODE_TUNNEL
    check_state(x, FULL)
    said = "SA 0x1000: mode tunnel is not offered, card takes transport"
    assert refusal(x, plain) == (errno.EINVAL, said)
    x.xso.type = OFFLOAD_CRYPTO  # the headers are the host's business
    check_state(x, plain)

    x.xso.type, x.props.saddr = OFFLOAD_PACKET, bytes(16)
    assert "source any of a tunnel out is not offered" in refusal(x, FULL)[1]
    x.xso.dir = c.IN
    check_state(x, FULL)


def test_crypto_offload_leaves_to_the_host_what_the_host_does(make_state) -> None:
    """What the card could not match or count in packet offload is nothing to it here (CRYPTO)."""
    x = make_state(0x1000, c.IN, mark=XfrmMark(5, 0xFF), replay_esn=esn(96),
                   lft=LifetimeCfg(hard_packet_limit=0))  # fmt: skip
    x.xso.type = OFFLOAD_CRYPTO
    check_state(x, CX6DX)
    check_state(x, PROFILES["crypto-only"])
    x.aead = aead(28)
    assert "AES key of 192 bits" in refusal(x, CX6DX)[1]


def test_crypto_offload_falls_back_to_software(bench, make_state) -> None:
    """EOPNOTSUPP without a text: the core goes on, nobody has anything to report (STATE-24)."""
    x, extack = make_state(), Extack()
    x.xso.type = OFFLOAD_CRYPTO
    assert bench.add(x, extack) == -errno.EOPNOTSUPP
    assert extack.msg == ""
    assert bench.card.log == []


@pytest.mark.parametrize("profile", ["full", "cx6dx", "tiny"])
@pytest.mark.parametrize("direction", [c.IN, c.OUT])
def test_a_plain_sa_is_taken_by_every_packet_card(make_state, profile, direction) -> None:
    check_state(make_state(0x1000, direction), PROFILES[profile])


def template(**changes) -> UserTmpl:
    values = dict(id=XfrmId(bytes(16), 0, 50), family=2, reqid=1) | changes
    return UserTmpl(**values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": 1}, "type 1 is not offered"),
        ({"xfrm_vec": [template(), template()]}, "2 templates are not offered, card takes"),
        ({"xfrm_vec": [template(id=XfrmId(bytes(16), 0, 51))]}, "template protocol 51"),
        ({"xfrm_vec": [template(mode=4)]}, "template mode beet is not offered, card takes"),
        ({"xfrm_vec": [template(mode=1)]}, "any in a tunnel template out"),
        ({"xfrm_vec": [template(mode=1, saddr=ANY)]}, "any in a tunnel template out"),
        ({"xfrm_vec": [template(mode=1, family=7)]}, "template family 7 is neither"),
        ({"xfrm_vec": [template(optional=1)]}, "level use is not offered"),
        ({"xfrm_vec": [template(family=10)]}, "template family 10"),
        ({"mark": XfrmMark(0, 1)}, "mark 0x1 cannot be matched"),
        ({"if_id": 1}, "if_id 0x1 cannot be matched"),
        ({"selector": XfrmSelector(family=2, ifindex=2)}, "selector device 0x2"),
    ],
)  # fmt: skip
def test_policies_are_refused_with_reasons(make_policy, changes, words) -> None:
    with pytest.raises(OffloadError) as caught:
        check_policy(make_policy(**changes), FULL)
    assert caught.value.errno == errno.EINVAL
    assert words in caught.value.text
    assert caught.value.text.startswith("policy out priority 10: ")


@pytest.mark.parametrize("family", [0, AF_INET, AF_INET6])
def test_a_tunnel_template_may_be_of_the_other_family(make_policy, family) -> None:
    tunnel = template(mode=1, family=family, saddr=b"\1" * 16, id=XfrmId(b"\2" * 16, 0, 50))
    check_policy(make_policy(xfrm_vec=[tunnel]), FULL)
    with pytest.raises(OffloadError, match="template mode tunnel is not offered, card takes"):
        check_policy(make_policy(xfrm_vec=[tunnel]), msgspec.structs.replace(FULL, tunnel=False))
    check_policy(make_policy(POLICY_IN, xfrm_vec=[template(mode=1)]), FULL)


READ = "cannot be matched by the card, which reads those of protocols 1, 6, 17, 33, 58, 132, 136"
PORT_READ = [1, 6, 17, 33, 58, 132, 136]  # ICMP TCP UDP DCCP ICMPv6 SCTP UDP-Lite


@pytest.mark.parametrize("mask", ["sport_mask", "dport_mask"])
@pytest.mark.parametrize(("proto", "name"), [(0, "any"), (47, "47"), (50, "50"), (135, "135")])
def test_what_the_card_does_not_read_as_ports(make_state, make_policy, proto, name, mask) -> None:
    """A GRE key or a Mobility Header type that never matches would let packets pass in clear."""
    sel = XfrmSelector(family=2, proto=proto, **{mask: 1})
    text = f"selector ports of protocol {name} {READ}"
    assert refusal(make_state(sel=sel), FULL) == (errno.EINVAL, f"SA 0x1000: {text}")
    with pytest.raises(OffloadError) as caught:
        check_policy(make_policy(selector=sel), FULL)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.text == f"policy out priority 10: {text}"


@pytest.mark.parametrize("proto", PORT_READ)
def test_what_the_card_reads_as_ports(make_state, make_policy, proto) -> None:
    sel = XfrmSelector(family=2, proto=proto, sport_mask=0xFFFF, dport_mask=0xFFFF)
    check_state(make_state(sel=sel), FULL)
    check_policy(make_policy(selector=sel), FULL)
    gre = XfrmSelector(family=2, proto=47)
    check_policy(make_policy(selector=gre), FULL)


def test_a_card_without_priorities_takes_only_zero(make_policy) -> None:
    plain = msgspec.structs.replace(FULL, priority=False)
    with pytest.raises(OffloadError, match="priority 10 is not offered, card takes 0"):
        check_policy(make_policy(), plain)
    check_policy(make_policy(priority=0), plain)
