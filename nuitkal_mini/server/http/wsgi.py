"""Calls the WSGI app (PEP 3333) for a parsed request, and logs what became of it.

`begin` and `finish` run in the leader's thread, `serve` in the thread that serves the request. A
client that breaks off is no error: nothing is logged above DEBUG, unless the app fails by itself.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from typing import Any, Dict, Optional, Sequence, Tuple
from wsgiref.util import FileWrapper

from ..messages import language_of
from ..refused import Refused
from ..responses import Answer, App
from .body import body_of
from .connection import BLOCK_BYTES, ClientGone, Connection, RequestBody
from .request import METHODS, Network, RequestHead, environ_of, parse_head
from .response import HttpResponse

MAX_PARSED = 512  # heads whose parsing is remembered: the clients of one program all send the same
MAX_PARSED_BYTES = 1024  # of such a head
ACCESS_LINE = "%s %s %s %s %d bytes %.1f ms"

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("nuitkal_mini.server.access")


class Gateway:
    """Between connections and the app: requests come in by `scheme` at `server`, its address and
    port.

    `trusted` are the proxies whose forwarded headers are believed.
    """

    def __init__(
        self,
        app: App,
        scheme: str,
        server: Tuple[str, int],
        trusted: Sequence[Network],
        is_multiprocess: bool,
    ) -> None:
        self._app, self._scheme, self._server, self._trusted = app, scheme, server, trusted
        self._constants: Dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": is_multiprocess,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
        }
        # The leader's alone: (peer, head) -> what they mean.
        self._parsed: Dict[Tuple[str, bytes], Tuple[RequestHead, Dict[str, Any]]] = {}

    # The leader

    def begin(self, connection: Connection) -> None:
        """Parse the head that has come; gives the connection a request, or a response that refuses
        it.
        """
        raw = connection.take_head()
        try:
            head, environ = self._parse(connection.peer, raw)
        except Refused as refused:
            is_head = raw.startswith(b"HEAD ")
            self.refuse(connection, refused, _language(raw), is_head)
            return
        connection.head, connection.environ = head, environ
        connection.client = environ["REMOTE_ADDR"]
        connection.expect_body(body_of(head))
        connection.response = HttpResponse(connection, head, head.method == "HEAD")

    def _parse(self, peer: str, raw: bytes) -> Tuple[RequestHead, Dict[str, Any]]:
        known = self._parsed.get((peer, raw))
        if known is None:
            head = parse_head(raw)
            environ = environ_of(head, peer, self._scheme, self._server, self._trusted)
            environ.update(self._constants)
            known = head, environ
            if len(raw) <= MAX_PARSED_BYTES:
                if len(self._parsed) >= MAX_PARSED:
                    self._parsed.clear()
                self._parsed[peer, raw] = known
        return known[0], known[1].copy()

    def refuse(
        self, connection: Connection, refused: Refused, language: str = "", is_head: bool = False
    ) -> None:
        """Give the connection a response that refuses its request, and closes it afterwards."""
        environ, connection.environ = connection.environ, None
        connection.response = HttpResponse(connection, None, is_head)
        connection.response.refuse(refused, language or language_of(environ or {}))

    def finish(self, connection: Connection) -> None:
        """Close the app's iterable and log the request, when its response is complete or given
        up.
        """
        response, connection.response = connection.response, None
        if response is None:
            return
        try:
            response.close()
        except Exception:
            logger.exception("closing a response failed")
        if access_logger.isEnabledFor(logging.INFO):
            _log_access(connection.client, connection.head, response)

    # The thread that serves the request

    def serve(self, connection: Connection) -> None:
        """Run the app, unless it has run, and hand over of the response what the socket takes now.

        Raises:
            ClientGone: the client broke off, or the response had to be.
        """
        response: HttpResponse = connection.response
        environ, connection.environ = connection.environ, None
        try:
            if environ is not None:
                self._run_app(connection, environ, response)
            response.advance()
        except ClientGone:
            raise
        except Exception as error:
            if connection.is_broken:
                raise ClientGone(f"{connection.client} broke off") from error
            head = connection.head
            method, path = (head.method, head.split_target[0]) if head else ("-", "-")
            logger.exception("%s %s failed", method, path)
            if response.has_begun:
                raise ClientGone("a response was broken off") from error
            refused = Refused("internal_error", "the server failed; its log says why")
            response.refuse(refused, language_of(environ or {}))
            response.advance()

    def _run_app(
        self, connection: Connection, environ: Dict[str, Any], response: HttpResponse
    ) -> None:
        if environ["PATH_INFO"] == "*":  # OPTIONS *: the server as a whole
            response.answer(Answer(200, headers=(("Allow", METHODS),)))
            return
        decoder = connection.decoder
        assert connection.head is not None and decoder is not None
        environ["nuitkal.local_address"] = connection.local_address  # SERVER_NAME may be all
        environ["nuitkal.allow_long_body"] = connection.allow_long_body
        environ["wsgi.errors"] = sys.stderr
        if decoder.is_complete:
            environ["wsgi.input"] = io.BytesIO(connection.content)
            if connection.head.is_chunked:
                environ["CONTENT_LENGTH"] = str(len(connection.content))
        else:
            body = RequestBody(connection, decoder, connection.head.expects_continue)
            environ["wsgi.input"] = io.BufferedReader(body, BLOCK_BYTES)
            environ["wsgi.input_terminated"] = True
        response.take_result(self._app(environ, response.start))


def _language(head: bytes) -> str:
    """The language for the answer to a head that could not be parsed."""
    line = re.search(rb"\naccept-language:([^\r\n]*)", head, re.IGNORECASE)
    return language_of({"HTTP_ACCEPT_LANGUAGE": line.group(1).decode("latin-1")} if line else {})


def _log_access(client: str, head: Optional[RequestHead], response: HttpResponse) -> None:
    """One line a request. Of the query only the version is logged: the rest may hold secrets."""
    method, path, query = (head.method, *head.split_target) if head else ("-", "-", "")
    version = re.search(r"(?:^|&)(version=[^&]*)", query) if query else None
    arguments = (
        client,
        method,
        path + ("?" + version.group(1) if version else ""),
        response.status[:3] or "-",
        response.sent_bytes,
        (time.monotonic() - response.began_at) * 1000,
    )
    # Not `access_logger.info`: it looks for its caller in the stack, a tenth of a request's time.
    access_logger.handle(
        access_logger.makeRecord(
            access_logger.name, logging.INFO, "", 0, ACCESS_LINE, arguments, None
        )
    )
