"""A hub on localhost: listing, HEAD and GET of files, redirects of large files, Range, and faults on request."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c" * 40


class Hub:
    """`files`: path to bytes; those of 1000 bytes or more are large files. `faults`: path to a list, one used per GET."""

    def __init__(self, repo, files):
        self.repo, self.files = repo, files
        self.faults = {}
        self.heads = {}  # path to the bytes that a request for a file's begin gets
        self.log = []  # (path, first byte, bytes sent, authorization)
        self.rate = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def digest(self, path):
        data = self.files[path]
        if len(data) >= 1000:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def listing(self):
        siblings = []
        for path, data in self.files.items():
            one = {"rfilename": path, "size": len(data), "blobId": self.digest(path)[:40]}
            if len(data) >= 1000:
                one["lfs"] = {"sha256": self.digest(path), "size": len(data), "pointerSize": 130}
            siblings.append(one)
        return {"id": self.repo, "modelId": self.repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}

    def answer(self, request, body):
        path = unquote(request.path.split("?")[0])
        if path.startswith(f"/api/models/{self.repo}/tree/"):
            tree = [
                {"type": "file", "path": p, "size": len(d), "oid": self.digest(p)[:40]}
                | ({"lfs": {"oid": self.digest(p), "size": len(d), "pointerSize": 130}} if len(d) >= 1000 else {})
                for p, d in self.files.items()
            ]
            return self.send(request, 200, {"X-Repo-Commit": COMMIT}, json.dumps(tree).encode(), body)
        if path.startswith(f"/api/models/{self.repo}/revision/") or path == f"/api/models/{self.repo}":
            fault = self.fault("listing")
            if fault:
                return self.send(request, *fault, b"", body)
            return self.send(request, 200, {}, json.dumps(self.listing()).encode(), body)
        is_cdn = path.startswith("/cdn/")
        name = path.removeprefix("/cdn/") if is_cdn else path.removeprefix(f"/{self.repo}/resolve/").partition("/")[2]
        if name not in self.files:
            return self.send(request, 404, {"X-Error-Code": "EntryNotFound"}, b"", body)
        large = len(self.files[name]) >= 1000
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.digest(name)[:40]}"', "Accept-Ranges": "bytes"}
        if large and not is_cdn:
            headers |= {"X-Linked-Etag": f'"{self.digest(name)}"', "X-Linked-Size": str(len(self.files[name]))}
            # Another host, so that a token must not follow.
            headers["Location"] = f"http://localhost:{self.port}/cdn/{name}?sig=1"
            return self.send(request, 302, headers, b"", body)
        self.send_file(request, name, headers, body)

    def fault(self, key):
        return self.faults.get(key) and self.faults[key].pop(0)

    def send_file(self, request, name, headers, body):
        data, fault = self.files[name], body and self.fault(name)
        if isinstance(fault, tuple):
            return self.send(request, *fault, b"", body)
        first = 0
        asked = request.headers.get("Range")
        if asked and fault != "no range":
            start, end = asked.removeprefix("bytes=").split("-")
            first, last = int(start), min(int(end or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            if end and name in self.heads:
                data = self.heads[name]
        else:
            last = len(data) - 1
        if fault == "wrong":
            data = bytes(255 - b for b in data)
        data = data[first : last + 1]
        cut = len(data) // 2 if fault in ("cut", "stall") else len(data)
        request.send_response(206 if "Content-Range" in headers else 200)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            request.send_header(key, value)
        request.end_headers()
        if not body:
            return
        sent = 0
        try:
            while sent < cut:
                piece = data[sent : min(cut, sent + 65536)]
                request.wfile.write(piece)
                sent += len(piece)
                if self.rate:
                    time.sleep(len(piece) / self.rate)
            if fault == "stall":
                time.sleep(3)
            if cut < len(data):
                request.close_connection = True
        except OSError:
            request.close_connection = True
        self.log.append((name, first, sent, request.headers.get("Authorization")))

    def send(self, request, status, headers, data, body):
        request.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(data)
