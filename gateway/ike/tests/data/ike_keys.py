#!/usr/bin/env python3
"""Key derivation of RFC 7296 sections 2.13, 2.14, 2.17 and 2.18, written a second time, to check the first."""
import hashlib
import hmac


def prf(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def prf_plus(key, seed, length):
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = prf(key, block + seed + bytes([counter]))
        out, counter = out + block, counter + 1
    return out[:length]


ni, nr = bytes(range(0, 32)), bytes(range(32, 64))
spi_i, spi_r = bytes.fromhex("0102030405060708"), bytes.fromhex("1112131415161718")
shared = bytes(range(100, 132))

# AES-256-CBC, HMAC-SHA2-256-128, PRF-HMAC-SHA2-256: SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr of 32 octets.
skeyseed = prf(ni + nr, shared)
stream = prf_plus(skeyseed, ni + nr + spi_i + spi_r, 7 * 32)
names = ["sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr"]
for index, name in enumerate(names):
    print(name, stream[32 * index : 32 * index + 32].hex())
sk_d = stream[:32]
print("rekey_skeyseed", prf(sk_d, shared + ni + nr).hex())
# AES-256-GCM with 4 octets of salt each, without and with a new shared secret.
print("child", prf_plus(sk_d, ni + nr, 72).hex())
print("child_pfs", prf_plus(sk_d, shared + ni + nr, 72).hex())
# AES-128-CBC with HMAC-SHA2-256: 16 + 32 octets each way.
print("child_cbc", prf_plus(sk_d, ni + nr, 96).hex())
