"""Four one-octet keys under which HMAC-SHA-256 of b"puzzle" ends in at least 5 zero bits (RFC 8019)."""
import hashlib
import hmac

keys = [k for k in range(256)
        if int.from_bytes(hmac.new(bytes([k]), b"puzzle", hashlib.sha256).digest(), "big") % 32 == 0]
assert not any(k ^ 0x80 in keys for k in keys[:4])
print(*(f"{k:02x}" for k in keys[:4]))
