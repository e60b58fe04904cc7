# SPDX-License-Identifier: Apache-2.0
"""What ESP computes with a key, on `cryptography` (RFC 4106, 4309, 4543, 7634; 4303 for the rest).

A cipher is made of `x`'s key for one packet and is gone after it, so that a key has one place only
(`state.py`). What `cryptography` does not have (serpent, twofish, RIPEMD-160, XCBC, single DES)
has no sizes here: an SA that names it is kept and reported, and its packets are dropped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import CAST5, Blowfish, Camellia, TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hmac import HMAC

from host_driver.xfrm.state import Aead, Algorithm, XfrmState

GCM_TAG = 16
COUNTER_BYTES = 8  # the explicit IV of everything that counts

Text = bytes | bytearray | memoryview


class Sizes(NamedTuple):
    """Bytes: the unit that payload and trailer are padded to (at least 4), the IV, the ICV."""

    block: int
    iv: int
    icv: int


class Header(NamedTuple):
    """What is authenticated and not encrypted: SPI, high half of an ESN or empty, low half."""

    spi: bytes
    high: bytes
    low: bytes

    @property
    def aead(self) -> bytes:
        """RFC 4106 section 5: the halves of an extended number in their order."""
        return self.spi + self.high + self.low


# Combined ciphers: bytes of salt behind the key; how to seal and how to open.
_SALT = {
    "rfc4106(gcm(aes))": 4,
    "rfc4543(gcm(aes))": 4,
    "rfc4309(ccm(aes))": 3,
    "rfc7539esp(chacha20,poly1305)": 4,
}


class _Block(NamedTuple):
    """A block cipher in CBC mode, or one that counts (`iv` of 8 bytes, `salt` behind the key)."""

    algorithm: Callable[[Any], Any]
    block: int
    iv: int
    salt: int = 0


_CIPHERS: dict[str, _Block | None] = {
    "ecb(cipher_null)": None,
    "cbc(aes)": _Block(AES, 16, 16),
    "cbc(camellia)": _Block(Camellia, 16, 16),
    "cbc(sm4)": _Block(SM4, 16, 16),
    "cbc(des3_ede)": _Block(TripleDES, 8, 8),
    "cbc(blowfish)": _Block(Blowfish, 8, 8),
    "cbc(cast5)": _Block(CAST5, 8, 8),
    "rfc3686(ctr(aes))": _Block(AES, 1, COUNTER_BYTES, salt=4),
}
_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "hmac(md5)": hashes.MD5,
    "hmac(sha1)": hashes.SHA1,
    "hmac(sha256)": hashes.SHA256,
    "hmac(sha384)": hashes.SHA384,
    "hmac(sha512)": hashes.SHA512,
    "hmac(sm3)": hashes.SM3,
}
_NO_MAC, _CMAC = "digest_null", "cmac(aes)"


def sizes(x: XfrmState) -> Sizes | None:
    """The sizes of an SA's algorithms; None when it has none, or one that is not computed here."""
    if x.aead is not None:
        return Sizes(4, COUNTER_BYTES, x.aead.icv_bits // 8) if x.aead.name in _SALT else None
    if x.ealg is None or x.ealg.name not in _CIPHERS:
        return None
    if x.aalg is not None and x.aalg.name not in (*_HASHES, _CMAC, _NO_MAC):
        return None
    icv = 0 if x.aalg is None else x.aalg.trunc_bits // 8
    cipher = _CIPHERS[x.ealg.name]
    return Sizes(4, 0, icv) if cipher is None else Sizes(max(cipher.block, 4), cipher.iv, icv)


def make_iv(x: XfrmState, counter: int) -> bytes:
    """The explicit IV of one packet, from a 64-bit number that never comes again.

    Counter modes take the number itself. CBC needs one that nobody can predict: the number
    encrypted under the key (SP 800-38A appendix C).
    """
    raw = counter.to_bytes(COUNTER_BYTES, "big")
    if x.aead is not None:
        return raw
    assert x.ealg is not None
    cipher = _CIPHERS[x.ealg.name]
    if cipher is None or cipher.salt:
        return raw if cipher else b""
    with memoryview(x.ealg.key) as key:
        zero = modes.CBC(bytes(cipher.iv))
        return Cipher(cipher.algorithm(key), zero).encryptor().update(raw.rjust(cipher.iv, b"\0"))


def seal(x: XfrmState, header: Header, iv: bytes, clear: bytes) -> bytes:
    """Ciphertext and ICV of `clear`, which ends with the ESP trailer. Needs `sizes(x)`."""
    if x.aead is not None:
        with memoryview(x.aead.key) as material:
            return _seal_aead(x.aead, material, header, iv, clear)
    assert x.ealg is not None
    text = _crypt(x.ealg, iv, clear, True)
    return text + _icv(x.aalg, header, iv, text)


def unseal(x: XfrmState, header: Header, iv: bytes, text: bytes, icv: bytes) -> bytes | None:
    """The clear text with its trailer, or None when the ICV is wrong. Needs `sizes(x)`.

    What is authentic and no whole number of blocks is no text at all.
    """
    if x.aead is not None:
        try:
            with memoryview(x.aead.key) as material:
                return _unseal_aead(x.aead, material, header, iv, text, icv)
        except InvalidTag:
            return None
    assert x.ealg is not None
    if not bytes_eq(_icv(x.aalg, header, iv, text), icv):
        return None
    cipher = _CIPHERS[x.ealg.name]
    whole = cipher is None or len(text) % cipher.block == 0
    return _crypt(x.ealg, iv, text, False) if whole else b""


def _seal_aead(a: Aead, material: memoryview, header: Header, iv: bytes, clear: bytes) -> bytes:
    with material[: -_SALT[a.name]] as key:
        nonce = bytes(material[-_SALT[a.name] :]) + iv
        if a.name == "rfc4543(gcm(aes))":  # RFC 4543 section 3: all of it is authenticated only
            return clear + AESGCM(key).encrypt(nonce, b"", header.aead + iv + clear)
        if a.name == "rfc4106(gcm(aes))":
            sealed = AESGCM(key).encrypt(nonce, clear, header.aead)
            return sealed[: len(clear) + a.icv_bits // 8]
        return _other_aead(a, key).encrypt(nonce, clear, header.aead)


def _unseal_aead(
    a: Aead, material: memoryview, header: Header, iv: bytes, text: bytes, icv: bytes
) -> bytes:
    with material[: -_SALT[a.name]] as key:
        nonce = bytes(material[-_SALT[a.name] :]) + iv
        if a.name == "rfc4543(gcm(aes))":
            AESGCM(key).decrypt(nonce, icv, header.aead + iv + text)
            return text
        if a.name == "rfc4106(gcm(aes))" and len(icv) < GCM_TAG:
            return _unseal_gcm(key, nonce, header.aead, text, icv)
        cipher = AESGCM(key) if a.name == "rfc4106(gcm(aes))" else _other_aead(a, key)
        return cipher.decrypt(nonce, text + icv, header.aead)


def _unseal_gcm(key: memoryview, nonce: bytes, aad: bytes, text: bytes, icv: bytes) -> bytes:
    """GCM with an ICV of 8 or 12 bytes."""
    mode = modes.GCM(nonce, icv, min_tag_length=len(icv))
    opener = Cipher(AES(key), mode).decryptor()
    opener.authenticate_additional_data(aad)
    return opener.update(text) + opener.finalize()


def _other_aead(a: Aead, key: memoryview) -> AESCCM | ChaCha20Poly1305:
    if a.name == "rfc4309(ccm(aes))":
        return AESCCM(key, tag_length=a.icv_bits // 8)
    return ChaCha20Poly1305(key)


def _crypt(ealg: Algorithm, iv: bytes, text: bytes, seals: bool) -> bytes:
    """CBC, or AES in counter mode (RFC 3686 section 4); the null cipher changes nothing."""
    cipher = _CIPHERS[ealg.name]
    if cipher is None:
        return text
    with memoryview(ealg.key) as material, material[: len(material) - cipher.salt] as key:
        mode: Any = modes.CBC(iv)
        if cipher.salt:
            mode = modes.CTR(bytes(material[-cipher.salt :]) + iv + b"\0\0\0\1")
        made = Cipher(cipher.algorithm(key), mode)
        context = made.encryptor() if seals else made.decryptor()
        return context.update(text) + context.finalize()


def _icv(aalg: Algorithm | None, header: Header, iv: bytes, text: bytes) -> bytes:
    """The truncated MAC of the packet as it is sent; the high half stands last (RFC 4303 2.2.1)."""
    if aalg is None or aalg.name == _NO_MAC:
        return b""
    with memoryview(aalg.key) as key:
        mac = CMAC(AES(key)) if aalg.name == _CMAC else HMAC(key, _HASHES[aalg.name]())
        for part in (header.spi, header.low, iv, text, header.high):
            mac.update(part)
        return mac.finalize()[: aalg.trunc_bits // 8]
