"""The WSGI application: sends each path to the API, the admin site or the media folder."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

from . import api, media
from .admin.page import BASE as ADMIN
from .admin.site import Site
from .fleet import Fleet
from .messages import language_of
from .refused import method_not_allowed, not_found, to_refusal
from .responses import Environ, StartResponse, path_of, refusal, send
from .store import Store

MEDIA = "/media/"
TYPES = {
    ".zip": "application/zip",
    ".json": "application/json; charset=utf-8",
    ".delta": "application/octet-stream",
    ".minisig": "text/plain; charset=utf-8",
}


class Application:
    """The WSGI application over one data folder; `close()` releases the folder."""

    def __init__(self, data: Path, settings: api.Settings) -> None:
        self.store = Store(data, settings.public_keys, settings.max_data, settings.keep)
        self._fleet = Fleet(self.store.database)
        self._api = api.Api(self.store, settings, self._fleet)
        self._admin = Site(self.store, settings, self._fleet) if settings.has_admin else None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            path = path_of(environ)
            if path.startswith(api.BASE):
                return send(self._api.answer(environ, path), environ, start_response)
            # A browser's
            is_front_door = path == "/" and "text/html" in environ.get("HTTP_ACCEPT", "")
            if self._admin and (is_front_door or (path + "/").startswith(ADMIN)):
                return send(self._admin.answer(environ, path), environ, start_response)
            if path.startswith(MEDIA):
                return self._media(path[len(MEDIA) :], environ, start_response)
            raise not_found()
        except ConnectionError:
            raise  # the client has gone: nobody to answer
        except Exception as error:
            return send(refusal(to_refusal(error), language_of(environ)), environ, start_response)

    def close(self) -> None:
        self._fleet.close()
        self.store.close()

    def _media(self, name: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            raise method_not_allowed(environ["REQUEST_METHOD"], "GET, HEAD")
        file = media.resolve(self.store.media, name)
        if file is None or file.suffix not in TYPES:
            raise not_found()
        # a signature can be replaced, everything else keeps its bytes for ever
        cache = "no-cache" if file.suffix == ".minisig" else media.IMMUTABLE
        return media.respond(environ, start_response, file, TYPES[file.suffix], cache_control=cache)
