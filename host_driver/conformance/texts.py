# SPDX-License-Identifier: Apache-2.0
"""`ip xfrm` commands as cases need them, between the two hosts of every example."""

from host_driver.conformance.messages import DESTINATION, KEY, SOURCE

ESP_ID = "src {src} dst {dst} proto esp spi {spi:#x}"


def state(
    dev: str | None = None, *, verb: str = "add", spi: int = 0x1000, src: str = SOURCE,
    dst: str = DESTINATION, reqid: int = 1, mode: str = "transport", dir: str = "out",
    offload: str = "packet", key: bytes = KEY, icv: int = 128, more: str = "",
) -> str:  # fmt: skip
    """An AES-GCM SA: offloaded to `dev`, or in software without one; `more` words stand before
    `offload`. Inbound ones get a replay window of 32 unless `more` sets one."""
    words = [
        f"xfrm state {verb}", ESP_ID.format(src=src, dst=dst, spi=spi),
        f"reqid {reqid} mode {mode}", f"aead rfc4106(gcm(aes)) 0x{key.hex()} {icv}", more,
    ]  # fmt: skip
    if dir == "in" and "replay-window" not in more:
        words.append("replay-window 32")
    words.append(f"offload {offload} dev {dev} dir {dir}" if dev else f"dir {dir}" if dir else "")
    return " ".join(filter(None, words))


def delete(*, spi: int = 0x1000, src: str = SOURCE, dst: str = DESTINATION) -> str:
    """Delete an ESP SA."""
    return "xfrm state delete " + ESP_ID.format(src=src, dst=dst, spi=spi)


def get(*, spi: int = 0x1000, src: str = SOURCE, dst: str = DESTINATION) -> str:
    """Show an ESP SA with its statistics."""
    return "-s xfrm state get " + ESP_ID.format(src=src, dst=dst, spi=spi)


def policy(
    dev: str | None = None, *, verb: str = "add", src: str = SOURCE, dst: str = DESTINATION,
    dir: str = "out", reqid: int = 1, mode: str = "transport", priority: int | None = None,
    template: bool = True, ends: tuple[str, str] | None = None, more: str = "",
) -> str:  # fmt: skip
    """A policy between two hosts or networks: offloaded to `dev`, or in software without one.

    `ends` are the template's addresses (a tunnel's), the policy's own by default; `more` words
    stand before the template, as "action block" or "proto udp dport 9".
    """
    selected = f"src {src} dst {dst}"
    selector, rest = (more, "") if more.startswith("proto") else ("", more)
    words = [f"xfrm policy {verb} {selected}", selector, f"dir {dir}", rest]
    words.append("" if priority is None else f"priority {priority}")
    if template:
        outer = ends or (src.partition("/")[0], dst.partition("/")[0])
        words.append(f"tmpl src {outer[0]} dst {outer[1]} proto esp reqid {reqid} mode {mode}")
    words.append(f"offload packet dev {dev}" if dev else "")
    return " ".join(filter(None, words))


def policy_delete(*, src: str = SOURCE, dst: str = DESTINATION, dir: str = "out") -> str:
    """Delete a policy by its selector."""
    return f"xfrm policy delete src {src} dst {dst} dir {dir}"
