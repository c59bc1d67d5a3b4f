"""What huggingface_hub asks a Hub for when a folder is put there: the part of `hub_server.py` that writes.

A repository's files come in one commit, small ones in the commit itself, large ones through Git LFS before it.
"""

import base64
import hashlib
import json
from urllib.parse import unquote, urlsplit


class Uploads:
    """Mixin of a request handler; `hub` is set by its subclass, and `hub.writer` is the token that may write."""

    def do_POST(self) -> None:  # noqa: N802 - http.server's name
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self._chunks()
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.hub.written.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {self.hub.writer}":
            return self.refuse(403 if self.headers.get("Authorization") else 401, "", "Forbidden")
        if parts[:3] == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[-1] == "validate-yaml":
            return self._say({"errors": [], "warnings": []})
        if parts[-1] == "batch":
            objects = json.loads(body)["objects"]
            actions = [{**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}} for o in objects]
            return self._say({"transfer": "basic", "objects": actions})
        if parts[4] == "preupload":
            modes = [
                {
                    "path": f["path"],
                    "shouldIgnore": False,
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                }
                for f in json.loads(body)["files"]
            ]
            return self._say({"files": modes})
        assert parts[4] == "commit", self.path
        return self._commit(_name(parts), body)

    def do_PUT(self) -> None:  # noqa: N802 - http.server's name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._say({})

    def _create(self, wanted: dict) -> None:
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        name = name if "/" in name else f"nobody/{name}"
        key = f"datasets/{name}" if wanted.get("type") == "dataset" else name
        if key in self.hub.repos:
            return self._say({"url": f"{self.hub.url}/{key}", "error": "You already created this model repo"}, 409)
        self.hub.add(key, {}, private=wanted.get("private") is True or wanted.get("visibility") == "private")
        return self._say({"url": f"{self.hub.url}/{key}", "name": name})

    def _commit(self, key: str, body: bytes) -> None:
        repo = self.hub.repos[key]
        files = dict(repo.commits[repo.main])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        repo.main = hashlib.sha1(body, usedforsecurity=False).hexdigest()
        repo.commits[repo.main] = files
        url = f"{self.hub.url}/{key}/commit/{repo.main}"
        self._say({"success": True, "commitOid": repo.main, "commitUrl": url, "hookOutput": ""})

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _say(self, data: dict, status: int = 200) -> None:
        self.send(status, {"Content-Type": "application/json"}, json.dumps(data).encode())


def _name(parts: list[str]) -> str:
    """api/models/OWNER/NAME/... or api/datasets/OWNER/NAME/... -> how the repository is kept."""
    return "/".join(parts[2:4]) if parts[1] == "models" else "/".join(["datasets", *parts[2:4]])
