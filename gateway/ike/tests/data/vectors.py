#!/usr/bin/env python3
"""Prints the expected values of the unit tests in src/crypto: an oracle that shares no code with them.

Needs the `cryptography` package for the ciphers; the rest is Python's own integers and HMAC.
"""
import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

# RFC 3526 section 3, from its formula: 2^2048 - 2^1984 - 1 + 2^64 * ([2^1918 pi] + 124476).
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

P = 2**2048 - 2**1984 - 1 + 2**64 * (pi_times_2_to(1918) + 124476)
# The highest of 320 bits is always set.
A = int.from_bytes(bytes(range(1, 41)), "big") | 1 << 319
B = int.from_bytes(bytes((255 - 7 * i) % 256 for i in range(40)), "big")
sha256 = lambda value: hashlib.sha256(value.to_bytes(256, "big")).hexdigest()
print("modp p", sha256(P))
print("modp public a", sha256(pow(2, A, P)))
print("modp public b", sha256(pow(2, B, P)))
print("modp shared", sha256(pow(pow(2, A, P), B, P)))
PEER = next(peer for peer in range(2, 10000) if pow(peer, A, P) >> 2040 == 0)
print(f"modp shared of a and {PEER}, which starts with a zero byte", sha256(pow(PEER, A, P)))


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
