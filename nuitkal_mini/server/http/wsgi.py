"""From an HTTP request to the WSGI app and back (PEP 3333): one at a time, in the thread that calls.

A client that breaks off is no error: nothing is logged above DEBUG, unless the app fails by itself.
"""

from __future__ import annotations

import io
import logging
import re
import socket
import sys
import time
from typing import Any, Dict, Optional, Sequence, Tuple
from wsgiref.util import FileWrapper

from ..messages import language_of
from ..refused import Refused
from ..responses import App
from .connection import BLOCK_BYTES, Body, ClientGone, Connection, Response
from .request import Network, Origin, Request, environ_of, parse_head

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("nuitkal_mini.server.access")


class Gateway:
    """Serves the requests that come in by `scheme` at `server`, its address and port; `trusted` are the proxies to be believed."""

    def __init__(
        self, app: App, scheme: str, server: Tuple[str, int], trusted: Sequence[Network]
    ) -> None:
        self._app, self._scheme, self._server, self._trusted = app, scheme, server, trusted

    def serve(self, connection: Connection, keep_alive: bool) -> None:
        """One request and its response; afterwards the connection is closed, or ready for the next one.

        Raises:
            ClientGone: the client broke off, or the response had to be.
        """
        started = time.monotonic()
        head = connection.take_head()
        request: Optional[Request] = None
        body: Optional[Body] = None
        response = Response(connection)
        try:
            request = parse_head(head)
            body = Body(connection, request)
            response = Response(connection, request, body)
            response.keep_alive &= keep_alive
            self._run(connection, request, body, response)
        except Refused as refusal:
            response.answer(refusal, _language(head))
        finally:
            _log_access(connection.client, request, response, time.monotonic() - started)
        _settle(connection, body, response)

    def _run(
        self, connection: Connection, request: Request, body: Body, response: Response
    ) -> None:
        """Call the app; whatever it raises is answered with 500, or by breaking off when the response is under way."""
        environ = environ_of(
            request, Origin(connection.peer, self._scheme, self._server), self._trusted
        )
        connection.client = environ["REMOTE_ADDR"]
        environ.update(_SERVER_ENVIRON)
        environ["nuitkal.local_address"] = _local_address(
            connection.sock
        )  # SERVER_NAME may be all addresses at once
        environ["wsgi.errors"] = sys.stderr
        environ["wsgi.input"] = io.BufferedReader(body, BLOCK_BYTES) if body.left else io.BytesIO()
        try:
            result = self._app(environ, response.start)
            try:
                response.send(result)
            finally:
                close = getattr(result, "close", None)
                if close:
                    close()
        except Exception as error:
            if connection.is_broken:
                raise ClientGone(f"{connection.client} broke off") from error
            logger.exception("%s %s failed", request.method, request.split_target[0])
            if response.has_begun:
                raise ClientGone("a response was broken off") from error
            response.answer(
                Refused("internal_error", "the server failed; its log says why"),
                language_of(environ),
            )


_SERVER_ENVIRON: Dict[str, Any] = {
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "wsgi.file_wrapper": FileWrapper,
}


def _settle(connection: Connection, body: Optional[Body], response: Response) -> None:
    """Leave the connection at the beginning of the next request, or close it."""
    if body is None or not body.is_drainable():
        connection.close_gently()
        return
    body.drain()
    if not response.keep_alive or body.left:
        connection.close()


def _language(head: bytes) -> str:
    """The language for the answer to a head that could not be read."""
    line = re.search(rb"\naccept-language:([^\r\n]*)", head, re.IGNORECASE)
    return language_of({"HTTP_ACCEPT_LANGUAGE": line.group(1).decode("latin-1")} if line else {})


def _local_address(sock: socket.socket) -> str:
    try:
        return str(sock.getsockname()[0])
    except OSError:  # macOS, when the client has gone
        return ""


def _log_access(
    client: str, request: Optional[Request], response: Response, seconds: float
) -> None:
    """One line a request. Of the query only the version is told: whatever else may be a secret."""
    if not access_logger.isEnabledFor(logging.INFO):
        return
    method, path, query = (request.method, *request.split_target) if request else ("-", "-", "")
    version = re.search(r"(?:^|&)(version=[^&]*)", query)
    access_logger.info(
        "%s %s %s %s %d bytes %.1f ms",
        client,
        method,
        path + ("?" + version.group(1) if version else ""),
        response.status[:3] or "-",
        response.body_bytes,
        seconds * 1000,
    )
