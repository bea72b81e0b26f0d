"""The lab's name server on the Internet, and a terminal's resolver.

dns.py serve ADDRESS LOG NAME=VALUE...   answers on UDP and TCP 53; each question is a line in LOG
    VALUE: addresses joined by "," and "/TTL" behind; ">NAME" for an alias; "cut:" in front: cut over UDP
dns.py ask SERVER NAME TYPE [tcp]        prints the answer as JSON
"""

import json
import random
import socket
import struct
import sys
import threading

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "TXT": 16, "AAAA": 28, "HTTPS": 65}


def pack_name(name):
    labels = [label.encode() for label in name.rstrip(".").split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def read_name(message, at):
    labels, end = [], None
    while message[at]:
        if message[at] >= 0xC0:
            end = at + 2 if end is None else end
            at = struct.unpack("!H", message[at:at + 2])[0] & 0x3FFF
            continue
        labels.append(message[at + 1:at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels).lower(), at + 1 if end is None else end


def record(name, kind, ttl, data):
    return pack_name(name) + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def answer(zone, query, udp):
    name, at = read_name(query, 12)
    kind = struct.unpack("!H", query[at:at + 2])[0]
    question, records, code, cut = query[12:at + 4], [], 0, False
    owner = name
    while True:
        value = zone.get(owner)
        if value is None:
            code = 0 if records else 3
            break
        cut = cut or (value.startswith("cut:") and udp)
        value = value.removeprefix("cut:")
        if value.startswith(">"):
            records.append(record(owner, TYPES["CNAME"], 60, pack_name(value[1:])))
            owner = value[1:]
            continue
        addresses, ttl = value.split("/")
        if kind == TYPES["A"]:
            records += [record(owner, 1, int(ttl), socket.inet_aton(to)) for to in addresses.split(",")]
        break
    if cut:
        records = []
    flags = 0x8180 | code | (0x0200 if cut else 0)
    head = query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
    return name, kind, head + question + b"".join(records)


def serve(address, path, zone):
    log, lock = open(path, "a", encoding="ascii"), threading.Lock()

    def respond(query, udp):
        name, kind, message = answer(zone, query, udp)
        with lock:
            log.write(json.dumps({"name": name, "type": kind, "udp": udp}) + "\n")
            log.flush()
        return message

    def tcp(listener):
        while True:
            stream, _ = listener.accept()
            with stream:
                query = stream.recv(4096)
                message = respond(query[2:], False)
                stream.sendall(struct.pack("!H", len(message)) + message)

    listener = socket.create_server((address, 53))
    threading.Thread(target=tcp, args=(listener,), daemon=True).start()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, 53))
    print("serving", flush=True)
    while True:
        query, client = datagrams.recvfrom(4096)
        datagrams.sendto(respond(query, True), client)


def ask(server, name, kind, over_tcp):
    query = struct.pack("!HHHHHH", random.randrange(65536), 0x0100, 1, 0, 0, 0)
    query += pack_name(name) + struct.pack("!HH", TYPES[kind], 1)
    if over_tcp:
        with socket.create_connection((server, 53), timeout=8) as stream:
            stream.sendall(struct.pack("!H", len(query)) + query)
            message = b""
            while len(message) < 2 or len(message) < 2 + struct.unpack("!H", message[:2])[0]:
                message += stream.recv(4096)
            message = message[2:]
    else:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.settimeout(8)
        datagrams.connect((server, 53))
        datagrams.send(query)
        message = datagrams.recv(4096)
    assert message[:2] == query[:2], "the answer has another ID"
    flags, _, count = struct.unpack("!HHH", message[2:8])
    _, at = read_name(message, 12)
    at, addresses, ttls = at + 4, [], []
    for _ in range(count):
        _, at = read_name(message, at)
        found, _, ttl, length = struct.unpack("!HHIH", message[at:at + 10])
        if found == TYPES["A"]:
            addresses.append(socket.inet_ntoa(message[at + 10:at + 14]))
            ttls.append(ttl)
        at += 10 + length
    print(json.dumps({"code": flags & 15, "cut": bool(flags & 0x200), "addresses": addresses, "ttls": ttls}))


if sys.argv[1] == "serve":
    serve(sys.argv[2], sys.argv[3], dict(entry.split("=", 1) for entry in sys.argv[4:]))
else:
    ask(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:] == ["tcp"])
