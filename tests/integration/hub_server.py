"""A small Hugging Face Hub on loopback: what huggingface_hub asks for, over real HTTP, with a record of every request.

Repositories, their revisions and their troubles (gated, cut downloads, files on another host) are plain data.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.integration.hub_uploads import Uploads


@dataclass
class Repo:
    """One repository: the files of each commit, and what is wrong with it."""

    commits: dict[str, dict[str, bytes]]
    main: str
    private: bool = False
    gated: bool = False  # listed for everyone, files for nobody
    cdn: str | None = None  # weights are redirected to this host
    cuts: int = 0  # so many downloads of weights end halfway
    resumable: bool = True  # whether a request for the rest is answered
    status: int | None = None  # every request is answered with it; 0: the connection is closed without a word


@dataclass
class Seen:
    """One request that reached a server."""

    method: str
    path: str
    repo: str
    revision: str
    file: str
    range: str | None
    authorization: str | None
    sent: int = 0  # bytes of the body


@dataclass
class Hub:
    """A running server; `url` is its HF_ENDPOINT."""

    repos: dict[str, Repo] = field(default_factory=dict)
    refused_token: str | None = None  # a token nobody knows
    seen: list[Seen] = field(default_factory=list)
    writer: str | None = None  # the token that may write
    written: list[str] = field(default_factory=list)  # paths of requests to write
    objects: dict[str, bytes] = field(default_factory=dict)  # large files before their commit

    def __enter__(self) -> "Hub":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, files: Path | Mapping[str, bytes], **troubles: object) -> Repo:
        """Serve a folder's files, or the given ones, as the only commit of a repository."""
        content = read_folder(files) if isinstance(files, Path) else dict(files)
        commit = commit_of(name)
        self.repos[name] = Repo({commit: content}, commit, **troubles)
        return self.repos[name]

    def asked(self, repo: str, file: str = "") -> list[Seen]:
        """The requests for a repository, or for one of its files."""
        return [seen for seen in list(self.seen) if seen.repo == repo and seen.file.endswith(file)]


def read_folder(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def commit_of(text: str) -> str:
    """Something that looks like a commit, the same for the same text."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    served = hub

    class Handler(Uploads, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        hub = served

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            api = parts[:2] in (["api", "models"], ["api", "datasets"])
            kept = "datasets/" if "datasets" in parts[:2] else ""
            parts = parts[2:] if api else parts
            owner, name, kind, revision, *file = parts + [""] * (4 - len(parts))
            self.asked = Seen(
                self.command,
                self.path,
                f"{kept}{owner}/{name}",
                revision,
                "/".join(file),
                self.headers.get("Range"),
                self.headers.get("Authorization"),
            )
            hub.seen.append(self.asked)
            self.answer(api, kind)

        def answer(self, api: bool, kind: str) -> None:
            asked = self.asked
            if hub.refused_token and asked.authorization == f"Bearer {hub.refused_token}":
                return self.refuse(401, "", "Invalid credentials in Authorization header")
            repo = hub.repos.get(asked.repo)
            if repo is None:
                return self.refuse(404 if asked.authorization else 401, "RepoNotFound", "Repository not found")
            if repo.status is not None:
                return self.refuse(repo.status, "", "Internal Error") if repo.status else self.hang_up()
            commit = repo.main if asked.revision in ("main", "") else asked.revision
            if commit not in repo.commits:
                return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {commit}")
            files = repo.commits[commit]
            if api and kind == "tree":
                listing = [{"type": "file", "path": n, "size": len(b), "oid": _etag(b)} for n, b in files.items()]
                return self.send(200, {}, json.dumps(listing).encode())
            if api:
                siblings = [{"rfilename": name} for name in files]
                info = {
                    "id": asked.repo,
                    "sha": commit,
                    "siblings": siblings,
                    "gated": repo.gated,
                    "private": repo.private,
                }
                return self.send(200, {}, json.dumps(info).encode())
            if repo.gated:
                return self.refuse(403, "GatedRepo", "Access to this model is restricted")
            if asked.file not in files:
                return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return self.send_file(repo, commit, files[asked.file])

        def send_file(self, repo: Repo, commit: str, content: bytes) -> None:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(content)}"', "Accept-Ranges": "bytes"}
            weights = self.asked.file.endswith(".safetensors")
            if repo.cdn and weights:
                headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(content))}
                return self.send(302, {**headers, "Location": f"{repo.cdn}{self.path}"}, b"")
            start, status = 0, 200
            if self.asked.range:
                if not repo.resumable:
                    return self.hang_up()
                start, status = int(self.asked.range.removeprefix("bytes=").split("-")[0]), 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cut = self.command == "GET" and weights and repo.cuts > 0
            repo.cuts -= cut
            return self.send(status, headers, content[start:], cut=cut)

        def hang_up(self) -> None:
            self.close_connection = True

        def refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
            named = {"X-Error-Code": code} if code else {}
            self.send(status, {**(headers or {}), **named, "X-Error-Message": message}, b"{}")

        def send(self, status: int, headers: Mapping[str, str], body: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                part = body[: len(body) // 2] if cut else body
                self.wfile.write(part)
                if self.command == "GET":
                    self.asked.sent = len(part)
            self.close_connection = self.close_connection or cut

        def log_message(self, *_: object) -> None:
            """Quiet: `seen` is the log."""

    return Handler


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
