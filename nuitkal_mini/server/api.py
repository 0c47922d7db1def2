"""The JSON API: a table of calls, each a function from a request to an answer.

Errors are raised, and `Application` turns them into `{"error": sentence, "code": word}`. `check/`
is one document for every client of a channel and base URL: it is rendered after a commit, and
answered from memory until the next one.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from typing import Any, Callable, Dict, NamedTuple, Optional, Set, Tuple
from urllib.parse import parse_qs, quote

from ..entries import MAX_FILES
from ..manifest import MAX_BYTES
from ..minisign import MAX_KEY_TEXT, PublicKey, parse_signature
from ..semver import parse
from ..strict_json import JsonError, json_object
from . import auth, releases
from .attempts import address_key
from .deltas import deltas_to
from .fleet import Fleet
from .media import is_name
from .messages import ACTIVATED, UPLOADED, language_of, say
from .multipart import Form, FormFile, content_length, parse_form, read_body
from .refused import Refused, method_not_allowed, not_found
from .releases import STABLE, StoredRelease, rfc3339
from .responses import JSON, NOT_STORED, Answer, Environ, allow_long_body, base_url, json_bytes
from .rotations import rotations
from .store import Store, manifest_name, signature_name

BASE = "/api/nuitkal_pack/"
MAX_UPLOAD = 4 * 2**30
MAX_JSON = 16 * 2**20  # MAX_FILES hashes of 64 digits, quoted and separated
PAGE = 100  # releases that `versions/` shows unless asked for more
MAX_PAGE = 1000
MAX_RENDERED = (
    256  # kept renderings of check/: channels times addresses; a forged Host makes one each
)

_CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FLAGS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


class Settings(NamedTuple):
    """What the operator chose."""

    public_url: Optional[str] = None  # without a final slash
    max_upload: int = MAX_UPLOAD
    public_keys: Tuple[
        PublicKey, ...
    ] = ()  # of which one must have signed what is uploaded or promoted; none: signed or not
    has_admin: bool = True
    admin_host: Optional[str] = None  # the one name or address under which the admin site is there
    max_data: Optional[int] = None  # bytes that the data folder may take
    keep: Optional[int] = None  # releases older than a channel's active one


class ApiRequest(NamedTuple):
    """A call's language, channel and version; everything else is in `environ`."""

    environ: Environ
    language: str
    channel: str
    version: str


class RenderedCheck(NamedTuple):
    """A rendered `check/` and the generation of the database that it shows."""

    generation: int
    etag: str
    body: bytes


Call = Callable[["Api", ApiRequest], Answer]


class Api:
    """Everything below `/api/nuitkal_pack/`."""

    def __init__(self, store: Store, settings: Settings, fleet: Fleet) -> None:
        self._store = store
        self._database = store.database
        self._settings = settings
        self._fleet = fleet
        self._rendered: Dict[Tuple[str, str], RenderedCheck] = {}

    def answer(self, environ: Environ, path: str) -> Answer:
        """The answer to a request for `path`, which begins with BASE.

        Raises:
            Problem: what `to_refusal` turns into an error response.
        """
        parts = path[len(BASE) :].split("/")
        if len(parts) > 1 and not parts[-1]:
            parts.pop()
        channel = STABLE
        if parts[0] == "channels" and len(parts) > 1:
            channel, parts = parts[1], parts[2:] or [""]
        calls = CALLS.get((parts[0], len(parts)))
        if calls is None:
            raise not_found()
        parse_channel(channel)
        method = environ["REQUEST_METHOD"]
        call = calls.get("GET" if method == "HEAD" else method)
        if call is None:
            raise method_not_allowed(
                method, ", ".join("GET, HEAD" if name == "GET" else name for name in calls)
            )
        return call(self, ApiRequest(environ, language_of(environ), channel, parts[-1]))

    # --- calls for anyone

    def check(self, request: ApiRequest) -> Answer:
        base = self._base(request.environ)
        rendered = self._render_check(request.channel, base)
        asked = parse_qs(request.environ.get("QUERY_STRING", "")).get("version")
        if asked:
            self._fleet.count(request.channel, asked[-1])
        headers = (
            ("ETag", rendered.etag),
            (
                "Cache-Control",
                "public, no-cache" if self._settings.public_url else "private, no-cache",
            ),
        )
        known = request.environ.get("HTTP_IF_NONE_MATCH", "")
        if rendered.etag in known or known == "*":
            return Answer(304, b"", headers)
        return Answer(200, rendered.body, headers + JSON)

    def _render_check(self, channel: str, base: str) -> RenderedCheck:
        generation = self._database.generation()
        rendered = self._rendered.get((channel, base))
        if rendered is None or rendered.generation != generation:
            with self._database.read() as db:
                document = check_document(db, channel, base)
            if document is None:
                raise Refused(
                    "no_active_version", "channel {channel} has no active version", channel=channel
                )
            body = json_bytes(document)
            rendered = RenderedCheck(generation, f'"{hashlib.sha256(body).hexdigest()[:32]}"', body)
            if len(self._rendered) >= MAX_RENDERED:
                self._rendered.clear()
            self._rendered[channel, base] = rendered
        return rendered

    def versions(self, request: ApiRequest) -> Answer:
        query = parse_qs(request.environ.get("QUERY_STRING", ""), keep_blank_values=True)
        limit, offset = (
            _number(name, query.get(name, [str(default)])[-1])
            for name, default in (("limit", PAGE), ("offset", 0))
        )
        with self._database.read() as db:
            count, page = releases.page(db, request.channel, min(limit, MAX_PAGE), offset)
        base = self._base(request.environ)
        return _reply(200, {"count": count, "versions": [_show(release, base) for release in page]})

    def version(self, request: ApiRequest) -> Answer:
        parse(request.version)
        with self._database.read() as db:
            release = releases.find(db, request.channel, request.version)
        return _reply(200, _show(release, self._base(request.environ)))

    def health(self, request: ApiRequest) -> Answer:
        with self._database.read() as db:
            releases.active(db, request.channel)
        return _reply(200, {"status": "ok"})

    # --- calls with a token

    def upload(self, request: ApiRequest) -> Answer:
        who, base = self._token(request), self._base(request.environ)
        limit = self._settings.max_upload
        self._store.require_space(content_length(request.environ, limit) or 0)
        with self._store.scratch() as folder:
            form = parse_form(request.environ, folder, self._settings.max_upload)
            release = releases.create(self._store, folder, read_upload(form, request.channel), who)
        return _reply(201, {"message": say(UPLOADED, request.language), **_show(release, base)})

    def set_active(self, request: ApiRequest) -> Answer:
        release = releases.activate(
            self._store, request.channel, request.version, self._token(request)
        )
        message = say(ACTIVATED, request.language, version=release.version)
        return _reply(200, {"message": message, "version": release.version})

    def missing(self, request: ApiRequest) -> Answer:
        self._token(request)
        hashes = _json_body(request.environ, {"hashes"}).get("hashes")
        if (
            not isinstance(hashes, list)
            or len(hashes) > MAX_FILES
            or not all(isinstance(item, str) and _SHA256.fullmatch(item) for item in hashes)
        ):
            raise Refused(
                "bad_field", "'hashes' must be a list of at most 200,000 SHA-256 in lower-case hex"
            )
        with self._database.read() as db:
            return _reply(200, {"missing": releases.missing(db, hashes)})

    def edit(self, request: ApiRequest) -> Answer:
        who, base = self._token(request), self._base(request.environ)
        fields = _json_body(request.environ, set(releases.ReleaseEdit._fields))
        is_active = parse_flag("is_active", fields["is_active"]) if "is_active" in fields else None
        edits = releases.ReleaseEdit(
            _text(fields, "changelog"), is_active, _text(fields, "signature")
        )
        return _reply(
            200,
            _show(releases.edit(self._store, request.channel, request.version, edits, who), base),
        )

    def promote(self, request: ApiRequest) -> Answer:
        who, base = self._token(request), self._base(request.environ)
        fields = _json_body(request.environ, {"from", "is_active"})
        source, is_active = (
            _text(fields, "from"),
            parse_flag("is_active", fields.get("is_active", True)),
        )
        if source is None:
            raise Refused("missing_field", "the field {name!r} is missing", name="from")
        release = releases.promote(
            self._store, source, request.channel, request.version, is_active, who
        )
        return _reply(201, _show(release, base))

    def delete(self, request: ApiRequest) -> Answer:
        releases.delete(self._store, request.channel, request.version, self._token(request))
        return Answer(204)

    def _token(self, request: ApiRequest) -> str:
        """The token's name as the log writes it.

        A right token is never slowed down; a request without a token is no guess.
        """
        scheme, _, secret = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer" and secret.strip():
            name = auth.token_name(self._database, secret.strip())
            if name is not None:
                allow_long_body(request.environ)
                return f"token {name}"
            key = "tokens of " + address_key(request.environ.get("REMOTE_ADDR", ""))
            self._store.limiter.check(key)
            self._store.limiter.failed(key)
        raise Refused(
            "unauthorized",
            "this needs a valid token: Authorization: Bearer <token>",
            headers=(("WWW-Authenticate", "Bearer"),),
        )

    def _base(self, environ: Environ) -> str:
        return self._settings.public_url or base_url(environ)


CALLS: Dict[Tuple[str, int], Dict[str, Call]] = {  # (first word, how many words) -> method -> call
    ("check", 1): {"GET": Api.check},
    ("versions", 1): {"GET": Api.versions},
    ("health", 1): {"GET": Api.health},
    ("upload", 1): {"POST": Api.upload},
    ("missing", 1): {"POST": Api.missing},
    ("set_active", 2): {"POST": Api.set_active},
    ("promote", 2): {"POST": Api.promote},
    ("versions", 2): {"GET": Api.version, "PATCH": Api.edit, "DELETE": Api.delete},
}


# --- what comes in ------------------------------------------------------------------------------


def check_document(db: sqlite3.Connection, channel: str, base: str) -> Optional[Dict[str, Any]]:
    """What `check/` shows of the channel, below `base`; None when no release is active."""
    release = releases.active(db, channel)
    if release is None:
        return None
    walk = [_media_url(base, rotation.manifest) for rotation in rotations(db, channel)]
    deltas = [
        {
            "from": delta.source_version,
            "url": _media_url(base, delta.file),
            "size": delta.size,
            "hash": delta.sha256,
        }
        for delta in deltas_to(db, release.id)
    ]
    return {**_show(release, base), "deltas": deltas, "rotations": walk}


def read_upload(form: Form, channel: str) -> releases.Upload:
    """The fields of an upload, from the API or the admin site.

    Raises:
        Refused: missing_field, bad_field.
        BadVersion, SignatureError.
    """
    if "version" not in form.fields:
        raise Refused("missing_field", "the field {name!r} is missing", name="version")
    version = parse(form.fields["version"])
    is_active = parse_flag("is_active", form.fields.get("is_active", "true"))
    package, manifest, signature = (_file(form, name) for name in ("file", "manifest", "signature"))
    if package is None or signature and not manifest:
        raise Refused(
            "missing_field", "the field {name!r} is missing", name="manifest" if package else "file"
        )
    main = form.fields.get("main", "").strip()
    if main and manifest:
        raise Refused(
            "bad_field", "the manifest names the main program; leave {name!r} empty", name="main"
        )
    return releases.Upload(
        channel,
        version,
        package.path,
        package.sha256,
        _read(manifest, MAX_BYTES),
        signature_text(signature),
        form.fields.get("changelog", ""),
        is_active,
        main,
    )


def parse_channel(name: str) -> str:
    """The name of a channel, whether it has begun or not; it is also a folder below media/."""
    if not _CHANNEL.fullmatch(name) or not is_name(name):
        raise Refused(
            "no_such_channel",
            "{channel!r} cannot be a channel: at most 64 small letters, digits, dots, dashes, "
            "underscores; no dot at the end, no name of a Windows device such as con",
            channel=name[:64],
        )
    return name


def _file(form: Form, name: str) -> Optional[FormFile]:
    if name in form.fields:
        raise Refused("bad_field", "{name!r} must be sent as a file", name=name)
    return form.files.get(name)


def _read(upload: Optional[FormFile], limit: int) -> Optional[bytes]:
    if upload and upload.size > limit:
        raise Refused(
            "too_large",
            "the file {name!r} is larger than {limit} bytes",
            name=upload.filename,
            limit=limit,
        )
    return upload.path.read_bytes() if upload else None


def signature_text(upload: Optional[FormFile]) -> Optional[str]:
    """The signature in a form's file."""
    content = _read(upload, MAX_KEY_TEXT)
    if content is None:
        return None
    parse_signature(content)  # it is UTF-8 then
    return content.decode("utf-8")


def _json_body(environ: Environ, known: Set[str]) -> Dict[str, Any]:
    try:
        fields = json_object(read_body(environ, MAX_JSON))
    except JsonError as error:
        raise Refused("bad_json", error.template) from error  # none of them has values in it
    for name in fields.keys() - known:
        raise Refused("bad_field", "there is no field {name!r} here", name=name[:64])
    return fields


def _text(fields: Dict[str, Any], name: str) -> Optional[str]:
    value = fields.get(name, "")
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        raise Refused("bad_field", "{name!r} must be text", name=name)
    return value if name in fields else None


def parse_flag(name: str, value: object) -> bool:
    """A yes or no, of JSON or as forms spell it."""
    flag = _FLAGS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise Refused(
            "bad_field", "{name!r} must be true, 1, yes, on or false, 0, no, off", name=name
        )
    return flag


def _number(name: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise Refused("bad_field", "{name!r} must be a number of at most nine digits", name=name)
    return int(text)


# --- what goes out ------------------------------------------------------------------------------


def _reply(status: int, document: Dict[str, Any]) -> Answer:
    return Answer(status, json_bytes(document), JSON + NOT_STORED)


def _show(release: StoredRelease, base: str) -> Dict[str, Any]:
    """The contract's Release; every URL below the address the client used."""
    return {
        "version": release.version,
        "download_url": _media_url(base, release.package),
        "file_hash": release.file_hash,
        "file_size": release.file_size,
        "changelog": release.changelog,
        "is_active": release.is_active,
        "upload_time": rfc3339(release.uploaded_at),
        "manifest_url": _media_url(base, manifest_name(release.package)),
        "signature_url": None
        if release.signature is None
        else _media_url(base, signature_name(release.package)),
        "signature": release.signature,
    }


def _media_url(base: str, name: str) -> str:
    return f"{base}/media/{quote(name)}"
