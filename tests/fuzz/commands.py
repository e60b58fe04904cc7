# SPDX-License-Identifier: Apache-2.0
"""`ip xfrm` commands of every sort: what fuzzing starts from, and what its hosts are set up with.

KEY is the key in all of them; nothing that answers a refusal may show it.
"""

KEY = "a1b2c3d4e5f60718293a4b5c6d7e8f9001020304"
AEAD = f"aead 'rfc4106(gcm(aes))' 0x{KEY} 128"
SOFTWARE = f"auth-trunc 'hmac(sha256)' 0x{KEY}00 128 enc 'cbc(aes)' 0x{KEY[:32]}"
V4, V6 = "src 10.0.0.1 dst 10.0.0.2", "src fd00::1 dst fd00::2"
TMPL = f"tmpl {V4} proto esp reqid 1 mode transport"
PACKET = "offload packet dev nic0"

OUTBOUND = (
    f"ip xfrm state add {V4} proto esp spi 0x1000 reqid 1 mode transport {AEAD} {PACKET} dir out"
)
INBOUND = (
    "ip xfrm state add src 10.0.0.2 dst 10.0.0.1 proto esp spi 0x2000 reqid 2 mode transport "
    f"replay-window 64 {AEAD} {PACKET} dir in"
)
POLICY_OUT = f"ip xfrm policy add {V4} dir out {TMPL} {PACKET}"
POLICY_IN = (
    "ip xfrm policy add src 10.0.0.2 dst 10.0.0.1 dir in "
    f"tmpl src 10.0.0.2 dst 10.0.0.1 proto esp reqid 2 mode transport {PACKET}"
)
SETUP = (OUTBOUND, INBOUND, POLICY_OUT, POLICY_IN)

COMMANDS = (
    *SETUP,
    f"ip xfrm state add {V4} proto esp spi 0x1001 mode tunnel {AEAD} {PACKET} dir out",
    f"ip xfrm state add {V6} proto esp spi 0x1002 mode transport {AEAD} {PACKET} dir out",
    f"ip xfrm state add {V4} proto esp spi 0x1003 mode transport {AEAD} "
    "offload crypto dev nic0 dir in",
    f"ip xfrm state add {V4} proto esp spi 0x1004 mode transport {SOFTWARE} replay-window 32",
    f"ip xfrm state add {V4} proto esp spi 0x1005 mode tunnel flag esn replay-window 128 {AEAD} "
    "limit packet-soft 5 limit packet-hard 9 limit byte-hard 90000 limit time-hard 90 "
    "sel src 10.1.0.0/16 dst 10.2.0.0/16 proto udp sport 5 dport 6",
    f"ip xfrm state add {V4} proto esp spi 0x1006 mode transport encap espinudp 4500 4500 0.0.0.0 "
    f"mark 1 mask 3 output-mark 7 mask 0xf if_id 4 extra-flag dont-encap-dscp {AEAD}",
    f"ip xfrm state add {V4} proto comp spi 0x20 mode transport comp deflate",
    f"ip xfrm state update {V4} proto esp spi 0x1004 mode transport {SOFTWARE} replay-window 32",
    "ip xfrm state allocspi src 10.0.0.1 dst 10.0.0.2 proto esp mode transport min 5 max 9",
    f"ip xfrm state get {V4} proto esp spi 0x1000",
    f"ip xfrm state delete {V4} proto esp spi 0x1000",
    "ip xfrm state list", "ip -s -d xfrm state list nokeys", "ip xfrm state count",
    "ip xfrm state deleteall proto esp", "ip xfrm state flush proto esp",
    f"ip xfrm policy add {V6} dir fwd priority 7 index 11 action block",
    "ip xfrm policy add src 10.3.0.0/16 dst 10.4.0.0/16 proto tcp sport 1 dport 2 dir out "
    f"tmpl {V4} proto esp spi 0x77 mode tunnel level use limit packet-hard 8 mark 2 mask 2 if_id 3",
    f"ip xfrm policy update {V4} dir out {TMPL} {PACKET}",
    f"ip xfrm policy get {V4} dir out", f"ip xfrm policy delete {V4} dir out",
    "ip xfrm policy list", "ip -6 xfrm policy list dir in", "ip xfrm policy count",
    "ip xfrm policy set hthresh4 30 30 hthresh6 60 60", "ip xfrm policy setdefault in block",
    "ip xfrm policy getdefault", "ip xfrm policy deleteall dir fwd", "ip xfrm policy flush",
    "ip xfrm monitor all", "ip xfrm state help", "ip -o -br xfrm policy", "xfrm",
)  # fmt: skip
