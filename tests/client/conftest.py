"""A real HTTP server on a free port that misbehaves as a test tells it to."""

from __future__ import annotations

import contextlib
import http.server
import logging
import ssl
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import pytest

from nuitkal_mini.client.log_file import LogFile

if TYPE_CHECKING:
    from .site import Site


class Asked(NamedTuple):
    path: str
    headers: Dict[str, str]


class Exchange(http.server.BaseHTTPRequestHandler):
    """One request.

    An answer function gets it and calls `reply`, or writes to `wfile` what it likes.
    """

    protocol_version = "HTTP/1.1"
    server: Origin

    def reply(
        self, status: int = 200, body: bytes = b"", *, length: Optional[int] = None, **headers: str
    ) -> None:
        """Header names with underscores.

        `length` -1 leaves Content-Length out, another value lies in it.
        """
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length != -1:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_file(self, content: bytes, *, etag: str = '"1"', cut: Optional[int] = None) -> None:
        """As a good file server does, except that the connection breaks after `cut` bytes of the
        body.
        """
        first, last = 0, len(content) - 1
        asked = self.headers.get("Range", "")
        if asked and self.headers.get("If-Range", etag) == etag:
            start, _, end = asked[len("bytes=") :].partition("-")
            first, last = (
                (int(start), int(end or last)) if start else (max(0, len(content) - int(end)), last)
            )
            if first > last or first >= len(content):
                return self.reply(416, Content_Range=f"bytes */{len(content)}")
            last = min(last, len(content) - 1)
            body = content[first : last + 1]
            self.reply(
                206,
                body[:cut],
                length=len(body),
                ETag=etag,
                Content_Range=f"bytes {first}-{last}/{len(content)}",
            )
        else:
            self.reply(200, content[:cut], length=len(content), ETag=etag)

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append(Asked(self.path, dict(self.headers)))
        with contextlib.suppress(OSError):  # the client may hang up: it is there to refuse us
            self.server.answer(self)

    do_CONNECT = do_GET

    def log_message(self, *_: Any) -> None:
        pass


class Origin(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, answer: Callable[[Exchange], None], context: Optional[ssl.SSLContext]
    ) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.answer = answer
        self.asked: List[Asked] = []
        if context is not None:
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.server_port}/"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def handle_error(self, *_: Any) -> None:
        pass

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


Serve = Callable[..., Origin]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(answer)` starts a server; `answer` gets each `Exchange`.

    A list of answers is used one by one, the last for good.
    """
    running: List[Origin] = []

    def start(
        *answers: Callable[[Exchange], None], context: Optional[ssl.SSLContext] = None
    ) -> Origin:
        left = list(answers)
        running.append(
            Origin(lambda exchange: (left.pop(0) if len(left) > 1 else left[0])(exchange), context)
        )
        return running[-1]

    yield start
    for origin in running:
        origin.stop()


@pytest.fixture
def site(serve: Serve) -> Site:
    """A site on a server of its own, with nothing published."""
    from .site import Site  # here, since it imports this module

    return Site(serve)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def no_log_file_outlives_its_test() -> Iterator[None]:
    """Updaters that a test does not close would write every later record to their log files."""
    yield
    log = logging.getLogger("nuitkal_mini.client")
    for handler in reversed(list(log.handlers)):
        if isinstance(handler, LogFile):
            handler.detach()
    log.setLevel(logging.NOTSET)
    log.propagate = True
