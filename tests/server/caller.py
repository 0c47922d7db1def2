"""Calls the WSGI application through wsgiref's validator, and makes what it is called with."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import unquote
from wsgiref.validate import validator

from nuitkal_mini.minisign import ReleaseComment
from nuitkal_mini.server.application import Application
from nuitkal_mini.server.auth import create_token
from nuitkal_mini.signing import SecretKey, release_comment_text, sign

BASE = "/api/nuitkal_pack/"
BOUNDARY = "-----of-the-tests"
KEY = SecretKey(b"key id 1", b"1" * 32)


class Reply(NamedTuple):
    status: int
    headers: Dict[str, str]  # names in lower case
    body: bytes
    cookies: Tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's code, after a look at the form that every error has."""
        assert (
            set(self.json) == {"error", "code"}
            and self.json["error"]
            and self.headers["content-type"].startswith("application/json")
        )
        return str(self.json["code"])


class Caller:
    """Calls the application as a server would; with a token unless told otherwise."""

    def __init__(self, app: Application, has_token: bool = True) -> None:
        self.app = app
        self.token: Optional[str] = (
            create_token(app.store.database, "tests", "tests") if has_token else None
        )

    def __call__(
        self, method: str, path: str, body: bytes = b"", query: str = "", **environ: str
    ) -> Reply:
        headers: List[Any] = []
        path = path if path.startswith("/") else BASE + path
        request: Dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path.encode().decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "updates.test",
            "REMOTE_ADDR": "192.0.2.1",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": "application/json",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        if self.token:
            request["HTTP_AUTHORIZATION"] = f"Bearer {self.token}"
        request.update(environ)
        if method in ("GET", "HEAD"):
            del request["CONTENT_LENGTH"], request["CONTENT_TYPE"]

        def start_response(status: str, given: List[Tuple[str, str]], exc_info: Any = None) -> Any:
            headers[:] = [status, given]
            return lambda data: None

        result = validator(self.app)(request, start_response)
        try:
            content = b"".join(result)
        finally:
            result.close()
        return Reply(
            int(headers[0][:3]),
            {name.lower(): value for name, value in headers[1]},
            content,
            tuple(value for name, value in headers[1] if name == "Set-Cookie"),
        )

    def get(self, path: str, **environ: str) -> Reply:
        return self("GET", path, **environ)

    def send(self, method: str, path: str, fields: Any, **environ: str) -> Reply:
        return self(method, path, json.dumps(fields).encode(), **environ)

    def upload(
        self,
        version: str,
        files: Optional[Dict[str, bytes]] = None,
        channel: str = "",
        **parts: Any,
    ) -> Reply:
        """Upload the files as a ZIP made by zipfile; further parts are fields (str) and files
        (bytes).
        """
        if files is not None:
            parts["file"] = make_zip(files)
        return self.form("upload/", channel, version=version, **parts)

    def form(self, path: str, channel: str = "", **parts: Any) -> Reply:
        prefix = f"channels/{channel}/" if channel else ""
        return self(
            "POST",
            prefix + path,
            make_form(parts),
            CONTENT_TYPE=f"multipart/form-data; boundary={BOUNDARY}",
        )

    def media(self, url: str) -> bytes:
        """What the server hands out under one of its own URLs."""
        assert url.startswith("http://updates.test/media/")
        reply = self.get(unquote(url[len("http://updates.test") :]))
        assert reply.status == 200
        return reply.body


def make_form(parts: Dict[str, Any]) -> bytes:
    out = b""
    for name, value in parts.items():
        out += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        out += (
            b'; filename="x"\r\n\r\n' + value
            if isinstance(value, bytes)
            else b"\r\n\r\n" + value.encode()
        )
        out += b"\r\n"
    return out + f"--{BOUNDARY}--\r\n".encode()


def make_zip(files: Dict[str, bytes], comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for path, content in files.items():
            member = zipfile.ZipInfo(path, (2025, 1, 1, 0, 0, 0))  # the same bytes every time
            member.external_attr = 0o600 << 16
            package.writestr(member, content, zipfile.ZIP_DEFLATED)
        package.comment = comment
    return out.getvalue()


def make_manifest(version: str, files: Dict[str, bytes], app: str = "tests", **more: Any) -> bytes:
    entries = [
        {"path": path, "size": len(content), "sha256": sha256(content), "mode": "644"}
        for path, content in sorted(files.items())
    ]
    return json.dumps(
        {"format": 1, "app": app, "version": version, "files": entries, **more}
    ).encode()


def make_signature(
    manifest: bytes, version: str, app: str = "tests", key: SecretKey = KEY
) -> bytes:
    return sign(key, manifest, release_comment_text(ReleaseComment(1, app, version))).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_below(folder: Path) -> List[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
