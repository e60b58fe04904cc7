# SPDX-License-Identifier: Apache-2.0
"""The receiving side of the observer: what RFC 4303 3.4 makes of each frame at its host.

Frames are judged in the order in which they entered the wire. Where a fault may have changed what
arrives, or when, the tracks concerned are not `exact`, and only what holds in any order counts.
"""

from collections import defaultdict

from host_driver.simulate.esp import Inside
from host_driver.simulate.headers import ESP, NO_NEXT, UDP, Parsed, checksum_good, parse
from host_driver.simulate.ledger import SaAsked
from host_driver.simulate.opening import Opener, Pieces, esp_at, inner_of, marked, pieced, udp_end
from host_driver.simulate.tracks import Fate, Seen, Track, Tracks
from host_driver.simulate.window import SPACE
from host_driver.simulate.window import Fate as Numbered

IPV6_BYTES = 40


class Receiver:
    """Host `host`'s end of the wire."""

    def __init__(self, host: int, opener: Opener) -> None:
        self._host = host
        self._opener = opener
        self._pieces = Pieces()
        self._coming: defaultdict[bytes, list[Seen]] = defaultdict(list)
        self._rested = -1  # the last step in which everything came to rest

    def arrived(self, seen: Seen, tracks: Tracks) -> None:
        """Judge a frame: sets `into`, `fate`, `number_in` and `arrived`."""
        packet, parsed = seen.packet, seen.parsed
        if packet is None:
            return
        if parsed is None:
            seen.fate = Fate.MALFORMED
            return
        if parsed.proto == ESP and parsed.fragment:
            seen.fate = Fate.PIECE
            whole = self._pieces.add(self._host, packet, parsed)
            found = parse(whole) if whole is not None else None
            if whole is None or found is None:
                return
            packet, parsed = whole, found
        at = esp_at(packet, parsed)
        track = None if at is None else self._find(packet, parsed, at, tracks)
        if track is None or at is None:
            seen.fate = Fate.NO_SA if parsed.proto == ESP else Fate.CLEAR
            seen.arrived = packet if seen.fate is Fate.CLEAR else None
        elif not checksum_good(packet):
            seen.fate = Fate.MALFORMED  # its header would be written anew
        else:
            seen.into = track
            self._judge(seen, track, packet, parsed, at)
        if seen.arrived is not None:
            ways = {seen.arrived}
            if seen.into is not None:  # the wire may have cut it up
                ways.add(pieced(seen.arrived))
            for way in ways:
                self._coming[way].append(seen)

    def brought(self, packet: bytes) -> tuple[Seen | None, bool]:
        """The frame that brought a packet to the stack, and whether it had brought it before. Of
        frames with the same packet it is the first that may still come; those that had not when
        all was at rest are lost, or, under faults, late."""
        candidates = self._coming.get(packet)
        if not candidates:
            return None, False
        fresh = [seen for seen in candidates if not seen.delivered]
        taken = [seen for seen in fresh if seen.fate in (Fate.TAKEN, Fate.CLEAR)]
        if fresh:
            coming = [seen for seen in taken or fresh if seen.step > self._rested]
            return coming[0] if coming else max(taken or fresh, key=lambda seen: seen.step), False
        return candidates[-1], True

    def brought_changed(self, packet: bytes) -> bool:
        """Whether a frame brought it but for its IPv6 header, which transport mode does not
        protect, and nothing in it has to be right: traffic class, flow label, hop limit, source."""
        return packet[0] >> 4 == 6 and any(
            seen.into is not None
            and seen.into.sa.mode == "transport"
            and not seen.delivered
            and len(way) == len(packet)
            and way[IPV6_BYTES:] == packet[IPV6_BYTES:]
            for way, coming in self._coming.items()
            for seen in coming
        )

    def rest(self, step: int) -> None:
        """Nothing moves any more."""
        self._rested = step

    def forget(self, before_step: int) -> None:
        """Let go of frames that nobody can deliver any more."""
        for packet in list(self._coming):
            kept = [seen for seen in self._coming[packet] if seen.step >= before_step]
            if kept:
                self._coming[packet] = kept
            else:
                del self._coming[packet]

    def _find(self, packet: bytes, parsed: Parsed, at: int, tracks: Tracks) -> Track | None:
        """The SA of (destination, SPI): the newest that was accepted, if any is there."""
        spi = int.from_bytes(packet[at : at + 4])
        named = tracks.named(self._host, "in", spi)
        found = [
            track
            for track in named
            if track.target == parsed.dst
            and _comes_as_agreed(track.sa, parsed)
            and not track.sa.errno
        ]
        if found:
            return found[-1]
        for track in reversed(tracks.named(self._host, "out", spi)):
            # Before SAs had a direction, software opened with what was made for sending, too.
            if track.target == parsed.dst and not track.sa.errno:
                if track.sa.offload != "none":
                    return None  # that it is not the host's own address is known here
                track.exact = False
                return track
        return None

    def _judge(self, seen: Seen, track: Track, packet: bytes, parsed: Parsed, at: int) -> None:
        """RFC 4303 3.4.2 to 3.4.4, after the limit that RFC 4301 4.4.2.1 sets."""
        sa, end = track.sa, udp_end(packet, parsed)
        body = packet[at:end]
        if len(body) < 8 + 8 + 2 + sa.icv_bytes or end > parsed.end:
            seen.fate = Fate.SHORT
            return
        low, seen.after_forged = int.from_bytes(body[4:8]), track.forged
        judged = track.window.judge(low)
        inside = self._try(seen, track, body, track.window.number(low))
        if inside == "integrity" and sa.esn and not track.exact:  # the host may not be so far
            inside = self._try(seen, track, body, max(track.window.number(low) - SPACE, low))
        seen.behind = seen.number_in <= track.window.top
        forged = inside == "integrity" and seen.number_in > track.window.top
        taken = self._as_of_the_next_half(seen, track, body) if inside == "integrity" else inside
        seen.arrived = self._packet(sa, packet, parsed, taken)
        seen.size = 0 if isinstance(inside, str) else len(inside.payload)
        track.came += not isinstance(inside, str) or inside == "trailer"
        if track.limit_reached():
            seen.fate = Fate.LIMIT
        elif judged is not Numbered.FRESH:
            seen.fate = Fate.REPLAY
            track.replays += judged is not Numbered.ZERO
        elif inside == "integrity":
            seen.fate = Fate.INTEGRITY
            track.failed += 1
            track.forged |= forged
        elif sa.offload != "packet" and _refused_by_core(inside):
            seen.fate = Fate.TRAILER
        else:
            self._take(seen, track)

    def _try(self, seen: Seen, track: Track, body: bytes, number: int) -> Inside | str:
        seen.number_in = number
        return self._opener.open(track.sa, body, number >> 32 if track.sa.esn else None)

    def _as_of_the_next_half(self, seen: Seen, track: Track, body: bytes) -> Inside | str:
        """What is in a packet with a wrong ICV for a receiver whose window is smaller: that takes a
        number left of it for one of the next subspace (RFC 4303 A2.2)."""
        if not track.sa.esn:
            return "integrity"
        ahead = (seen.number_in + SPACE) % (SPACE * SPACE)
        opened = self._opener.open(track.sa, body, ahead >> 32)
        if not isinstance(opened, str):
            behind = (track.window.top - seen.number_in) % (SPACE * SPACE)
            seen.next_half, seen.behind = True, behind < track.sa.window
            seen.number_in = ahead
        return opened

    def _take(self, seen: Seen, track: Track) -> None:
        """Authentic and fresh: only now the window moves and the packet counts (INV-19)."""
        track.window.take(seen.number_in)
        track.taken += 1
        track.taken_bytes += seen.size
        track.last_taken = seen.size
        seen.fate = Fate.TAKEN if seen.arrived is not None else Fate.TRAILER
        track.looked_at(seen.frame.time)

    def _packet(
        self, sa: SaAsked, packet: bytes, parsed: Parsed, inside: Inside | str
    ) -> bytes | None:
        """What the stack gets; None where nothing authentic is in it, or a dummy (RFC 4303 2.6)."""
        if isinstance(inside, str) or inside.next_header == NO_NEXT:
            return None
        inner = inner_of(sa, packet, parsed, inside)
        if inner is None or sa.mode == "transport":
            return inner
        return marked(inner, packet)


def _refused_by_core(inside: Inside | str) -> bool:
    """Linux opens and takes the trailer off before it moves the window: nothing inside, a dummy and
    a bad trailer leave it where it is."""
    return isinstance(inside, str) or not inside.payload or inside.next_header == NO_NEXT


def _comes_as_agreed(sa: SaAsked, parsed: Parsed) -> bool:
    """Whether ESP of this SA comes like that: native, or in UDP to its port. A NAT may change the
    other port (RFC 3948 2.1); UDP to another port is another's datagram."""
    if sa.encap is None:
        return parsed.proto == ESP
    return parsed.proto == UDP and parsed.dport == sa.encap[1]
