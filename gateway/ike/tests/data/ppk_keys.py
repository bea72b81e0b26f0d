#!/usr/bin/env python3
"""Keys with a post-quantum preshared key (RFC 8784 section 3), written a second time, to check the first."""
import hashlib
import hmac


def prf_plus(algorithm, key, seed, length):
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(key, block + seed + bytes([counter]), algorithm).digest()
        out, counter = out + block, counter + 1
    return out[:length]


ppk = bytes(range(32))
for algorithm in [hashlib.sha256, hashlib.sha384, hashlib.sha512]:
    size = algorithm().digest_size
    # SK_d', SK_pi' and SK_pr' count from 64, 96 and 128.
    for name, first in [("sk_d", 64), ("sk_pi", 96), ("sk_pr", 128)]:
        before = bytes((first + index) % 256 for index in range(size))
        print(f"{name}-{algorithm().name}", prf_plus(algorithm, ppk, before, size).hex())
