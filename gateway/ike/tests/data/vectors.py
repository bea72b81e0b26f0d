#!/usr/bin/env python3
"""Prints the expected values of the unit tests in src/crypto: an oracle that shares no code with them.

Needs the `cryptography` package for the ciphers; the rest is Python's own integers and HMAC.
"""
import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

def pi_times_2_to(bits):
    """Machin's formula in integers, with 64 bits to spare."""
    one = 1 << (bits + 64)
    def arctan_inverse(x):
        total = term = one // x
        n, sign = 3, -1
        while term:
            term //= x * x
            total += sign * (term // n)
            n, sign = n + 2, -sign
        return total
    return 4 * (4 * arctan_inverse(5) - arctan_inverse(239)) >> 64

def modp(group, size, constant, exponent_bits):
    """The moduli from the formulas of RFC 3526 sections 3 to 5: 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) pi] + c)."""
    p = 2**size - 2 ** (size - 64) - 1 + 2**64 * (pi_times_2_to(size - 130) + constant)

    def exponent(octets):
        """The highest bit is always set."""
        drawn = int.from_bytes(octets[: (exponent_bits + 7) // 8], "big")
        return drawn & (1 << exponent_bits) - 1 | 1 << exponent_bits - 1

    a, b = exponent(bytes(range(1, 61))), exponent(bytes((767 - 7 * i) % 256 for i in range(60)))
    sha256 = lambda value: hashlib.sha256(value.to_bytes(size // 8, "big")).hexdigest()
    print(group, "p", sha256(p))
    print(group, "public a", sha256(pow(2, a, p)))
    print(group, "public b", sha256(pow(2, b, p)))
    print(group, "shared", sha256(pow(pow(2, a, p), b, p)))
    peer = next(peer for peer in range(2, 65536) if pow(peer, a, p) >> size - 8 == 0)
    print(group, f"shared of a and {peer}, which starts with a zero octet", sha256(pow(peer, a, p)))


modp(14, 2048, 124476, 320)
modp(15, 3072, 1690314, 420)
modp(16, 4096, 240904, 480)


def prf_plus(name, key, seed, length):
    out = block = b""
    counter = 1
    while len(out) < length:
        block = hmac.new(key, block + seed + bytes([counter]), name).digest()
        out, counter = out + block, counter + 1
    return out[:length]


for name in ("sha256", "sha384", "sha512"):
    stream = prf_plus(name, b"key material", b"seed oneseed two", 200)
    print("prf+", name, hashlib.sha256(stream).hexdigest())

HEAD = bytes(range(32))
CONTENT = b"inner payloads of an IKE message"
KEY = bytes(range(100, 164))
aead_iv = (1).to_bytes(8, "big")
for name, make, key_len in (("gcm128", AESGCM, 16), ("gcm256", AESGCM, 32), ("chacha", ChaCha20Poly1305, 32)):
    salt = KEY[key_len : key_len + 4]
    print(name, (aead_iv + make(KEY[:key_len]).encrypt(salt + aead_iv, CONTENT + b"\0", HEAD)).hex())
iv = bytes([0xA5] * 16)
for key_len, hash_name, icv_len in ((16, "sha256", 16), (32, "sha384", 24), (32, "sha512", 32)):
    pad = 15 - len(CONTENT) % 16
    encryptor = Cipher(algorithms.AES(KEY[:key_len]), modes.CBC(iv)).encryptor()
    text = iv + encryptor.update(CONTENT + bytes(pad) + bytes([pad]))
    mac = hmac.new(KEY[: 2 * icv_len], HEAD + text, hash_name).digest()[:icv_len]
    print(f"cbc{8 * key_len}-{hash_name}", (text + mac).hex())
