"""A cache folder of its own for every test, and a server that breaks down as told."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import pytest

from nuitkal_mini.zip_read import open_member, read_directory

TOKEN = "s3cret-token"


class Request(NamedTuple):
    method: str
    path: str
    headers: Dict[str, str]
    body: bytes


class Fault(NamedTuple):
    """An answer to the next request whose path contains `path`; status 0 ends the connection."""

    path: str
    status: int = 0
    body: bytes = b""
    headers: Tuple[Tuple[str, str], ...] = ()
    after: bool = False  # the request is carried out all the same


class ScriptedServer:
    """The API as far as the publisher uses it, in memory; `faults` are used up one by one."""

    def __init__(self) -> None:
        self.requests: List[Request] = []
        self.faults: List[Fault] = []
        self.contents: Set[str] = set()
        self.releases: Dict[str, Dict[str, Any]] = {}
        self.manifests: Dict[str, bytes] = {}
        self.packages: Dict[str, bytes] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.handle(self)

            do_POST = do_PATCH = do_GET

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_port}/api/nuitkal_pack/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def paths(self, name: str) -> List[Request]:
        return [request for request in self.requests if name in request.path]

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        fault = next((fault for fault in self.faults if fault.path in handler.path), None)
        if fault and fault.status == 413:  # answers before it has read, and hangs up
            self.faults.remove(fault)
            return self.answer(handler, fault.status, fault.body, fault.headers)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = Request(handler.command, handler.path, dict(handler.headers.items()), body)
        self.requests.append(request)
        status, answer = (0, b"") if fault and not fault.after else self.carry_out(request)
        if fault is None:
            return self.answer(handler, status, answer)
        self.faults.remove(fault)
        if fault.status:
            self.answer(handler, fault.status, fault.body, fault.headers)

    def answer(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: Tuple[Tuple[str, str], ...] = (),
    ) -> None:
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def carry_out(self, request: Request) -> Tuple[int, bytes]:
        name = request.path.split("nuitkal_pack/")[1]
        if request.method != "GET" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return refusal(401, "unauthorized", "The token is missing or wrong.")
        if name.startswith("versions/?"):
            offset = int(name.rpartition("=")[2])
            return 200, json.dumps(
                {
                    "count": len(self.releases),
                    "versions": list(self.releases.values())[offset : offset + 100],
                }
            ).encode()
        if name.startswith("manifest/"):
            return 200, self.manifests[name[len("manifest/") :]]
        if name == "missing/":
            hashes = json.loads(request.body)["hashes"]
            return 200, json.dumps(
                {"missing": [digest for digest in hashes if digest not in self.contents]}
            ).encode()
        if name == "upload/":
            return self.upload(parse_form(request))
        version = name.split("/")[1]
        if name.startswith("set_active/"):
            self.activate(version)
            return 200, json.dumps({"message": "ok", "version": version}).encode()
        self.releases[version].update(json.loads(request.body))  # PATCH versions/{version}/
        return 200, json.dumps(self.releases[version]).encode()

    def upload(self, fields: Dict[str, bytes]) -> Tuple[int, bytes]:
        version = fields["version"].decode()
        if version in self.releases:
            return refusal(409, "version_exists", "The version exists.")
        package = io.BytesIO(fields["file"])
        for member in read_directory(package).members:
            self.contents.add(hashlib.sha256(b"".join(open_member(package, member))).hexdigest())
        files = json.loads(fields["manifest"])["files"]
        if any(file["sha256"] not in self.contents for file in files if "link" not in file):
            return refusal(400, "incomplete", "Contents are missing.")
        self.manifests[version] = fields["manifest"]
        self.packages[version] = fields["file"]
        self.releases[version] = {
            "version": version,
            "is_active": False,
            "manifest_url": f"manifest/{version}",
            "changelog": fields["changelog"].decode(),
            "signature": fields["signature"].decode() if "signature" in fields else None,
        }
        if fields["is_active"] == b"yes":
            self.activate(version)
        return 201, json.dumps(self.releases[version]).encode()

    def activate(self, version: str) -> None:
        for name, release in self.releases.items():
            release["is_active"] = name == version


def refusal(status: int, code: str, sentence: str) -> Tuple[int, bytes]:
    return status, json.dumps({"error": sentence, "code": code}).encode()


def parse_form(request: Request) -> Dict[str, bytes]:
    boundary = re.findall("boundary=(.*)", request.headers["Content-Type"])[0].encode()
    fields = {}
    for part in request.body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        fields[re.findall(b' name="([^"]*)"', head)[0].decode()] = content[:-2]
    return fields


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder: Path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("LOCALAPPDATA", str(folder))
    monkeypatch.delenv("NUITKAL_TOKEN", raising=False)
    return folder


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A small program's folder, old enough for the cache."""
    folder = tmp_path / "program"
    write(folder, "main.py", b"print('hello')\n")
    write(folder, "lib/tool.sh", b"#!/bin/sh\nexit 0\n", mode=0o755)
    write(folder, "lib/noise.bin", bytes(range(256)) * 300)
    write(folder, "empty", b"")
    return folder


def write(
    folder: Path, path: str, content: bytes, mode: int = 0o644, age_seconds: Optional[float] = 100.0
) -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    if age_seconds is not None:
        then = time.time() - age_seconds
        os.utime(file, (then, then))
    return file
