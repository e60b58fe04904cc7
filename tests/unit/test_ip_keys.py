# SPDX-License-Identifier: Apache-2.0
"""No complaint of the `ip xfrm` language shows a key, or a part of one, wherever it was put."""

import pytest

from host_driver.ip import run

KEY = "0x" + "c0ffee" * 6 + "aabb"
STATE = "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000"
ADD = f"{STATE} aead 'rfc4106(gcm(aes))' {KEY}"
DEVICES = {"lo": 1, "nic0": 2}


def complaint(text: str) -> str:
    """Stderr of a command that must not reach the core."""
    sent: list[bytes] = []
    result = run(text, lambda datagram: sent.append(datagram) or [], DEVICES)
    assert (sent, result.stdout, result.rc == 0) == ([], "", False)
    return result.stderr


@pytest.mark.parametrize(
    "text",
    [
        "{add} zz",
        "{add} {key}",
        "{add} 128 {key}",
        "{add} 128 reqid {key}",
        "xfrm state add {key}",
        "xfrm state add src {key} proto esp",
        "xfrm state add proto esp aead x {key}zz 128",
        "xfrm state add proto esp encap espinudp 1 2 {key}",
        "xfrm state add proto esp spi {key}",
        "xfrm {key}",
        "xfrm state {key}",
        "xfrm monitor {key}",
        "{key}",
        "-{key}",
        "xfrm state add proto esp enc x 0x11 aead {key}",
    ],
)
def test_a_hexadecimal_key(text: str) -> None:
    stderr = complaint(text.format(add=ADD, key=KEY))
    assert stderr and "c0ffee" not in stderr


@pytest.mark.parametrize(
    ("words", "secret"),
    [
        ("aead 'rfc4106(gcm(aes))' 128 mysecretkey12345dcba", "mysecret"),
        ("aead 'rfc4106(gcm(aes))' 128 short", "short"),
        ("aead 'rfc4106(gcm(aes))' 128 0X0102030405060708090a0b0c0d0e0f1011121314", "0102"),
        ("aead 'rfc4106(gcm(aes))' 128 0102030405060708090a0b0c0d0e0f1011121314", "0102"),
        ("aead '' 128 0102030405060708", "0102"),
        ("aead '' my 128 secret", "secret"),
        ("enc 'cbc(aes)' 0x0102030405060708 auth 'hmac(sha1)' 0x01 0x0102030405060708", "0102"),
        ("enc 'cbc(aes)' 0x0102 0x030405", "0304"),
        ("aead 'rfc4106(gcm(aes))' first second 128", "second"),
        ("enc 'cbc(aes)' first second", "second"),
        ("comp deflate secret", "secret"),
        ("mysecretkey12345dcba", "mysecret"),
        ("0102030405060708", "0102"),
        ("mode 0102030405ab", "0102"),
    ],
)
def test_keys_of_any_form(words: str, secret: str) -> None:
    stderr = complaint(f"{STATE} {words}")
    assert stderr.startswith('Error: argument "<<Keys hidden>>" is wrong') and secret not in stderr


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("mode bogus", "bogus"),
        ("spi 0x123456789", "0x123456789"),
        (f"enc x {KEY} dir fwd", "fwd"),
        (f"enc x {KEY} aead", "aead"),
        (f"enc x {KEY} offload packet dev nic7", "nic7"),
        (f"aead x {KEY} mode", "mode"),
        (f"aead x {KEY} -5", "-5"),
    ],
)
def test_harmless_words_are_shown(words: str, shown: str) -> None:
    assert f'"{shown}"' in complaint(f"xfrm state add proto esp {words}")
