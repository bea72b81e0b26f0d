#!/usr/bin/env python3
"""Lets scapy open packets that gateway-esp sealed, one JSON object a line on standard input.

    cargo run -q -p gateway-esp --example emit_sealed | check_sealed.py

Fails if one does not open to its inner packet, if one opens although its ICV is damaged, or if there are none.
Needs scapy and cryptography.
"""

import json
import sys

from scapy.layers.ipsec import IPSecIntegrityError

from esp_oracle import opened_packet


def complaint(vector):
    """What is wrong with a vector, or None."""
    try:
        opened = opened_packet(vector)
    except Exception as error:  # whatever scapy raises is a failure of this vector
        return f"scapy refuses it: {error!r}"
    if opened != bytes.fromhex(vector["inner"]):
        return f"scapy finds another inner packet: {opened.hex()}"
    if vector["udp"] and vector["ipv6"]:
        return None  # here the UDP checksum would catch the damage before the ICV does
    damaged = bytearray.fromhex(vector["frame"])
    damaged[-1] ^= 1
    try:
        opened_packet({**vector, "frame": damaged.hex()})
    except IPSecIntegrityError:
        return None
    return "scapy opens it although its ICV is damaged: this check checks nothing"


def main():
    count = failures = 0
    for line in sys.stdin:
        vector = json.loads(line)
        count += 1
        wrong = complaint(vector)
        if wrong is not None:
            failures += 1
            print(f"{vector['name']}: {wrong}", file=sys.stderr)
    if count == 0:
        print("no packets on standard input", file=sys.stderr)
        return 1
    print(f"scapy opened {count - failures} of {count} packets that gateway-esp sealed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
