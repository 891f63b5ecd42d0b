"""A hub on localhost: listing, HEAD and GET of files, redirects of large files, Range, and faults on request."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c" * 40


class Hub:
    """`files`: path to bytes; those of 1000 bytes or more are large files. `faults`: path to a list, one used per GET.

    `tls`: the server side of TLS, for an https hub.
    """

    def __init__(self, repo, files, tls=None):
        self.repo = repo
        self.commits = {COMMIT: files}
        self.revisions = {"main": COMMIT}
        self.faults = {}
        self.heads = {}  # path to the bytes that a request for a file's begin gets
        self.log = []  # (path, first byte, bytes sent, authorization)
        self.asked = []  # (path, authorization) of every request
        self.ranges = []  # (path, Range header) of every GET of a file's bytes
        self.times = []  # (path, monotonic time) of the same
        self.sizes = {}  # path to the size in the listing instead of the true one
        self.lengthless = False  # answers have no length: only their end does
        self.insists = 1 << 60  # files of this length are refused without a range
        self.connections = 0
        self.rate = None
        self.stall = 3
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                hub.connections += 1
                super().setup()

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.cdn = f"{scheme}://localhost:{self.port}"  # another host, so that a token must not follow

    @property
    def files(self):
        """Those of `main`."""
        return self.commits[COMMIT]

    @files.setter
    def files(self, files):
        self.commits[COMMIT] = files

    def digest(self, path, commit=COMMIT):
        data = self.commits[commit][path]
        if len(data) >= 1000:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def commit(self, revision):
        """None where there is no such branch, tag or commit."""
        return revision if revision in self.commits else self.revisions.get(revision)

    def listing(self, commit):
        siblings = []
        for path, data in self.commits[commit].items():
            size = self.sizes.get(path, len(data))
            one = {"rfilename": path, "size": size, "blobId": self.digest(path, commit)[:40]}
            if len(data) >= 1000:
                one["lfs"] = {"sha256": self.digest(path, commit), "size": size, "pointerSize": 130}
            siblings.append(one)
        return {"id": self.repo, "modelId": self.repo, "sha": commit, "siblings": siblings, "tags": [], "private": False}

    def answer(self, request, body):
        plain = request.path.split("?")[0]
        self.asked.append((unquote(plain), request.headers.get("Authorization")))
        api = f"/api/models/{self.repo}"
        if plain == api or plain.startswith(f"{api}/"):
            # A revision is one part of the path, so a slash in it is %2F.
            kind, _, revision = plain.removeprefix(api).lstrip("/").partition("/")
            commit = self.commit(unquote(revision.partition("/")[0]) or "main")
            fault = kind != "tree" and self.fault("listing")
            if fault:
                return self.send(request, *fault, b"", body)
            if commit is None:
                return self.send(request, 404, {"X-Error-Code": "RevisionNotFound"}, b"", body)
            answer = self.tree(commit) if kind == "tree" else self.listing(commit)
            return self.send(request, 200, {"X-Repo-Commit": commit}, json.dumps(answer).encode(), body)
        if plain.startswith("/api/models/"):
            return self.send(request, 404, {"X-Error-Code": "RepoNotFound"}, b"", body)
        is_cdn = plain.startswith("/cdn/")
        revision, _, name = plain.removeprefix("/cdn/" if is_cdn else f"/{self.repo}/resolve/").partition("/")
        commit, name = self.commit(unquote(revision)), unquote(name)
        if commit is None or name not in self.commits[commit]:
            return self.send(request, 404, {"X-Error-Code": "EntryNotFound"}, b"", body)
        data, digest = self.commits[commit][name], self.digest(name, commit)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest[:40]}"', "Accept-Ranges": "bytes"}
        if len(data) >= 1000 and not is_cdn:
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            headers["Location"] = f"{self.cdn}/cdn/{commit}/{name}?sig=1"
            return self.send(request, 302, headers, b"", body)
        self.send_file(request, name, data, headers, body)

    def tree(self, commit):
        return [
            {"type": "file", "path": p, "size": len(d), "oid": self.digest(p, commit)[:40]}
            | ({"lfs": {"oid": self.digest(p, commit), "size": len(d), "pointerSize": 130}} if len(d) >= 1000 else {})
            for p, d in self.commits[commit].items()
        ]

    def fault(self, key):
        return self.faults.get(key) and self.faults[key].pop(0)

    def send_file(self, request, name, data, headers, body):
        fault = body and self.fault(name)
        if isinstance(fault, tuple):
            return self.send(request, *fault, b"", body)
        first = 0
        asked = request.headers.get("Range")
        if body:
            self.ranges.append((name, asked))
            self.times.append((name, time.monotonic()))
        if not asked and len(data) >= self.insists:
            return self.send(request, 403, {}, b"", body)
        if asked and int(asked.removeprefix("bytes=").split("-")[0]) >= len(data):
            return self.send(request, 416, {"Content-Range": f"bytes */{len(data)}"}, b"", body)
        if asked and fault not in ("no range", "cut and no range"):
            start, end = asked.removeprefix("bytes=").split("-")
            first, last = int(start), min(int(end or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{'*' if self.lengthless else len(data)}"
            if end and name in self.heads:
                data = self.heads[name]
        else:
            last = len(data) - 1
        if fault == "wrong":
            data = bytes(255 - b for b in data)
        data = data[first : last + 1]
        cut = len(data) // 2 if fault in ("cut", "cut and no range", "stall") else len(data)
        request.send_response(206 if "Content-Range" in headers else 200)
        length = {"Connection": "close"} if self.lengthless else {"Content-Length": str(len(data))}
        for key, value in (headers | length).items():
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
                time.sleep(self.stall)
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
