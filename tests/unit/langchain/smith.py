"""A LangSmith on loopback that keeps what it is sent."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Smith(ThreadingHTTPServer):
    """Takes runs as LangSmith does, on loopback."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Take)
        self.runs = {}

    def start(self):
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return f"http://127.0.0.1:{self.server_port}"


class Take(BaseHTTPRequestHandler):
    def _take(self):
        run = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = run.get("id") or self.path.rsplit("/", 1)[-1]
        kept = self.server.runs.setdefault(key, {})
        kept.update({name: value for name, value in run.items() if value is not None})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_PATCH = _take  # noqa: N815 - named by http.server

    def log_message(self, *args):
        pass


def tree(server, run=None, depth=0):
    key = run and run["id"]
    children = [one for one in server.runs.values() if one.get("parent_run_id") == key]
    lines = []
    for child in sorted(children, key=lambda one: one["dotted_order"]):
        lines += ["  " * depth + child["name"], *tree(server, child, depth + 1)]
    return lines
