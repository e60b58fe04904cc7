# SPDX-License-Identifier: Apache-2.0
"""Which kernel the core behaves like: a named set of switches, and the only place for versions.

Each switch is a change that came after the series was merged (v6.2): True is what late kernels do,
False what v6.2 did. The comment of a switch names its rule and says what v6.2 did instead. All
other code asks `net.profile.SWITCH` and never for a version.

What differs only for packets that are forwarded or need neighbours (TX-24, TX-42..44) has no
switch, as the host's stack has neither.
"""

import errno
from dataclasses import dataclass, fields
from typing import Any

from proto.status import OffloadError


@dataclass(frozen=True, slots=True)
class Profile:
    """A kernel's behaviour. `name` is what `Lab(profile=...)` takes."""

    name: str

    # Requests (section 1). An attribute that a kernel does not know is ignored (UAPI-06).
    # UAPI-09, STATE-07, 10, 37, TX-04, REPLAY-02: no XFRMA_SA_DIR, so no SA had a direction.
    sa_dir_known: bool
    # UAPI-10: no XFRMA_SA_PCPU.
    sa_pcpu_known: bool
    # Section 1.3: no XFRMA_NAT_KEEPALIVE_INTERVAL.
    nat_keepalive_known: bool
    # UAPI-21: modes ended with BEET, 5 was refused everywhere.
    iptfs_known: bool
    # Section 1.2: message types ended with GETDEFAULT, 0x29 was an unknown one.
    migrate_state_known: bool
    # STATE-02: a selector without a family took any prefix length (seen: refused in 6.18).
    selector_without_family_verified: bool
    # UAPI-52: a mark kept what its mask does not cover, and so could never match.
    marks_sanitized: bool
    # STATE-08, TRAP-25, 26: high words without ESN and counters at their end were accepted.
    replay_counters_verified: bool
    # STATE-03, as recorded of 6.12: TFC padding of any size was accepted.
    tfcpad_limited: bool
    # Section 4.6: an optional tunnel or BEET template was accepted in an OUT policy.
    optional_tunnel_refused: bool
    # STATE-38, TRAP-31: an SPI in use under another mark or family was no clash, and to draw 0 out
    # of the range ended the search.
    spi_clash_checked: bool

    # The offload step (sections 4.3 and 4.4).
    # STATE-16, 26: the type's offload handler came first; AH never fell back to software.
    type_offload_checked_last: bool
    # STATE-17, 27, TX-22, TRAP-13, 14: UDP encapsulation was refused with either kind of offload,
    # and a reason for offload_ok to say no.
    encap_offloadable: bool
    # STATE-26, TRAP-24: if_id with INBOUND was accepted.
    inbound_if_id_refused: bool
    # STATE-22, REPLAY-07, TRAP-02: packet offload with ESN needed advance_esn as well.
    esn_callback_for_crypto_only: bool
    # Section 2.1: the core set xso.real_dev to the device; now only bonding does.
    real_dev_left_alone: bool

    # STATE-39, 40: the clone of a MIGRATE carried no offload.
    migrate_offloads: bool

    # Acquire (section 6.4).
    # ACQ-02, TRAP-03: a larval SA was not marked for the driver.
    larval_flagged: bool
    # ACQ-02, TRAP-11: a larval SA took no device reference, and its free gave one back.
    larval_holds_device: bool
    # ACQ-08, TRAP-10: after a failed acquire the driver saw delete, but never free.
    failed_acquire_frees: bool

    # Counters (sections 4.9 and 7.2).
    # DUMP-02, 03, TRAP-04: messages about an SA showed what the driver had last reported.
    update_at_serialization: bool
    # DUMP-04, OPS-20: only packet-offload SAs were updated.
    update_for_crypto: bool
    # MIB-01: reading the counters asked no driver.
    update_at_mib_read: bool
    # Section 7.2: counters ended with XfrmAcquireError.
    mib_after_acquire_error: bool

    # Ends of SAs and policies (sections 3.4, 4.6, 4.7, 4.8).
    # OPS-32, TRACE-14, 17, 18, 20, TRAP-06..08: policy_delete was called at expiry only.
    policy_deleted_at_kill: bool
    # POL-09, TRACE-16, TRAP-05: a policy that was not inserted leaked, its device reference too.
    policy_freed_after_failed_insert: bool
    # DEL-08, TRACE-14, TRAP-12: the flush of a device left driver frees to the collector.
    freed_at_device_flush: bool
    # NDEV-01, 10, TRAP-33: unregistering flushed only a device with the feature.
    unregister_flushes_always: bool
    # TRACE-08, TRAP-38, as recorded of 6.12 and 7.3: what UPDSA offered was freed, never deleted.
    update_deletes_offered: bool
    # OBJ-01: after free the record kept its type.
    free_clears_type: bool

    # Packets (sections 6, 7 and 9).
    # TX-20, 21, 23, TRAP-20: a packet-offload SA was used on whatever device the route led to.
    route_device_checked: bool
    # TX-23, TRAP-22: IP options and IPv6 extension headers went to the driver.
    headers_checked: bool
    # TX-33, TRAP-34: the usable MTU wrapped around below 0.
    mtu_guarded: bool
    # OPS-23, REPLAY-15: crypto output with ESN did not call advance_esn.
    output_advances_esn: bool
    # RX-05, TRAP-17: the policy check left the sec_path on the packet.
    sec_path_consumed: bool
    # RX-09: what a crypto-offload SA brought out of a tunnel needed a policy, too (until v6.11).
    crypto_tunnel_trusted: bool
    # RX-08, TRAP-32: a packet without sec_path failed the templates of an offloaded policy too.
    offloaded_policy_trusted: bool


def _all(value: bool) -> dict[str, Any]:
    return {one.name: value for one in fields(Profile) if one.name != "name"}


LATEST = Profile(name="latest", **_all(True))
V6_2 = Profile(name="v6.2", **_all(False))

PROFILES = {profile.name: profile for profile in (LATEST, V6_2)}


def profile_by_name(name: str) -> Profile:
    """The profile of this name. Raises OffloadError(EINVAL) that names the known ones."""
    if name not in PROFILES:
        known = ", ".join(PROFILES)
        raise OffloadError(errno.EINVAL, f"kernel profile {name!r} is unknown, known are {known}")
    return PROFILES[name]
