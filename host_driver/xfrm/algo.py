# SPDX-License-Identifier: Apache-2.0
"""The catalogue of algorithms that an SA may name, with the key sizes that they take (ALG-01..05).

Only the names and sizes are known here: they decide whether NEWSA is accepted. What of it software
computes with is in `esp_crypto`, what a card does is its driver's to say.
"""

from collections.abc import Container
from typing import NamedTuple

ANY_KEY = range(0, 1 << 16)


class Aead(NamedTuple):
    """ICV sizes in bits and key sizes in bytes, salt included."""

    icv_bits: tuple[int, ...]
    key_bytes: Container[int]


class Auth(NamedTuple):
    """Default and full size of the ICV in bits, and key sizes in bytes."""

    trunc_bits: int
    full_bits: int
    key_bytes: Container[int] = ANY_KEY


AEAD: dict[str, Aead] = {
    "rfc4106(gcm(aes))": Aead((64, 96, 128), (20, 28, 36)),
    "rfc4309(ccm(aes))": Aead((64, 96, 128), (19, 27, 35)),
    "rfc4543(gcm(aes))": Aead((128,), (20, 28, 36)),
    "rfc7539esp(chacha20,poly1305)": Aead((128,), (36,)),
}

AUTH: dict[str, Auth] = {
    "digest_null": Auth(0, 0),
    "hmac(md5)": Auth(96, 128),
    "hmac(sha1)": Auth(96, 160),
    "hmac(sha256)": Auth(96, 256),
    "hmac(sha384)": Auth(192, 384),
    "hmac(sha512)": Auth(256, 512),
    "hmac(rmd160)": Auth(96, 160),
    "xcbc(aes)": Auth(96, 128, (16,)),
    "cmac(aes)": Auth(96, 128, (16, 24, 32)),
    "hmac(sm3)": Auth(256, 256),
}

CRYPT: dict[str, Container[int]] = {
    "ecb(cipher_null)": (0,),
    "cbc(des)": (8,),
    "cbc(des3_ede)": (24,),
    "cbc(cast5)": range(5, 17),
    "cbc(blowfish)": range(4, 57),
    "cbc(aes)": (16, 24, 32),
    "cbc(serpent)": range(0, 33),
    "cbc(camellia)": (16, 24, 32),
    "cbc(twofish)": (16, 24, 32),
    "rfc3686(ctr(aes))": (20, 28, 36),
    "cbc(sm4)": (16,),
}

COMP = frozenset(("deflate", "lzs", "lzjh"))

# Older names that the kernel still takes; the SA is stored under the new one.
COMPAT = {
    "md5": "hmac(md5)",
    "sha1": "hmac(sha1)",
    "sha256": "hmac(sha256)",
    "sha384": "hmac(sha384)",
    "sha512": "hmac(sha512)",
    "rmd160": "hmac(rmd160)",
    "cipher_null": "ecb(cipher_null)",
    "des": "cbc(des)",
    "des3_ede": "cbc(des3_ede)",
    "cast5": "cbc(cast5)",
    "blowfish": "cbc(blowfish)",
    "aes": "cbc(aes)",
    "serpent": "cbc(serpent)",
    "camellia": "cbc(camellia)",
    "twofish": "cbc(twofish)",
}


def canonical(name: str) -> str:
    """The name under which the kernel stores an algorithm."""
    return COMPAT.get(name, name)
