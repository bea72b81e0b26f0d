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
# AES-256-CBC with HMAC-SHA2-512: 32 + 64 octets each way.
print("child_cbc_sha512", prf_plus(sk_d, ni + nr, 192).hex())
# RFC 9370 section 2.2.4: with two additional key exchanges.
first, second = bytes(range(150, 182)), bytes(range(200, 232))
print("rekey_skeyseed_additional", prf(sk_d, shared + ni + nr + first + second).hex())
print("child_additional", prf_plus(sk_d, shared + ni + nr + first + second, 72).hex())


def covered(response, message_id, content):
    """RFC 9242 section 3.3.2: IKE header and Encrypted payload's header with adjusted lengths, inner payloads."""
    header = spi_i + spi_r + bytes([46, 0x20, 43, 0x20 if response else 0x08])
    header += message_id.to_bytes(4, "big") + (28 + 4 + len(content)).to_bytes(4, "big")
    return header + bytes([34, 0]) + (4 + len(content)).to_bytes(2, "big") + content


int_auth_i = int_auth_r = b""
for number in (1, 2):
    int_auth_i = prf(bytes([number] * 32), int_auth_i + covered(False, number, bytes(range(0, 100))))
    int_auth_r = prf(bytes([number + 100] * 32), int_auth_r + covered(True, number, bytes(range(100, 180))))
    print(f"int_auth_{number}", (int_auth_i + int_auth_r + (number + 1).to_bytes(4, "big")).hex())
