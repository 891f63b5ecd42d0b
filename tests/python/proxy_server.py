"""An HTTP proxy on localhost that forwards whole addresses, opens tunnels by CONNECT, and counts both."""

import http.client
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Proxy:
    def __init__(self):
        self.asked = []  # (method, host asked for, proxy-authorization)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def note(self, host):
                proxy.asked.append((self.command, host, self.headers.get("Proxy-Authorization")))

            def do_CONNECT(self):
                host, _, port = self.path.rpartition(":")
                self.note(host)
                with socket.create_connection((host, int(port))) as far:
                    self.send_response(200)
                    self.end_headers()
                    near = self.connection
                    while True:
                        for one in select.select([near, far], [], [])[0]:
                            data = one.recv(65536)
                            if not data:
                                return
                            (far if one is near else near).sendall(data)

            def forward(self):
                to = urlsplit(self.path)
                self.note(to.hostname)
                far = http.client.HTTPConnection(to.hostname, to.port)
                far.request(self.command, to._replace(scheme="", netloc="").geturl(), headers=dict(self.headers))
                answer = far.getresponse()
                self.send_response(answer.status)
                for key, value in answer.getheaders():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(answer.read())

            do_GET = do_HEAD = forward

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
