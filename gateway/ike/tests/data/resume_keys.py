#!/usr/bin/env python3
"""SKEYSEED of a resumed session (RFC 5723 section 5.1), written a second time, to check the first."""
import hashlib
import hmac

sk_d, ni, nr = bytes(range(100, 132)), bytes(range(0, 32)), bytes(range(32, 64))
for algorithm in [hashlib.sha256, hashlib.sha512]:
    print(algorithm().name, hmac.new(sk_d, b"Resumption" + ni + nr, algorithm).hexdigest())
