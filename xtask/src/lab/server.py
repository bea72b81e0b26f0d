"""The lab's eligibility server: says who asked, serves content of any size, digests uploads, logs both.

    GET  /whoami        the client's address
    GET  /page          a page that names the client's address
    GET  /blob?bytes=N  N bytes, always the same ones
    POST /upload        the SHA-256 of the body

server.py LOG PORT...    serves on these ports, one JSON line a request in LOG
server.py --digest N     prints the SHA-256 of /blob?bytes=N
"""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse


def blob(size):
    return hashlib.shake_128(b"eligibility").digest(size)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "eligibility/1"

    def do_GET(self):
        url = urlparse(self.path)
        if url.path == "/whoami":
            self.answer(200, self.client_address[0].encode() + b"\n")
        elif url.path == "/page":
            page = f"<h1>Eligibility verification</h1><p>You are {self.client_address[0]}.</p>\n"
            self.answer(200, page.encode())
        elif url.path == "/blob":
            self.answer(200, blob(int(parse_qs(url.query)["bytes"][0])))
        else:
            self.answer(404, b"no such page\n")

    def do_POST(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left > 0:
            part = self.rfile.read(min(left, 1 << 16))
            if not part:
                return
            digest.update(part)
            left -= len(part)
        self.answer(200, digest.hexdigest().encode() + b"\n")

    def answer(self, status, body):
        self.record(status)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def record(self, status):
        client, port = self.client_address[:2]
        line = {"client": client, "port": port, "server_port": self.server.server_port,
                "method": self.command, "path": self.path, "status": status}
        self.server.log.write(json.dumps(line) + "\n")
        self.server.log.flush()

    def log_message(self, *_):
        pass


def main():
    if sys.argv[1] == "--digest":
        print(hashlib.sha256(blob(int(sys.argv[2]))).hexdigest())
        return
    servers = []
    log = open(sys.argv[1], "a", encoding="ascii")
    for port in sys.argv[2:]:
        server = ThreadingHTTPServer(("0.0.0.0", int(port)), Handler)
        server.log, server.daemon_threads = log, True
        servers.append(threading.Thread(target=server.serve_forever))
    for server in servers:
        server.start()
    print("serving", flush=True)


main()
