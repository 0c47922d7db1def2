"""What the server says: the active release and its manifest, over one HTTP client.

Nothing here is believed: `trust.py` and `policy.py` decide what the bytes are worth.
"""

from __future__ import annotations

import logging
from typing import Iterator, Tuple
from urllib.parse import urlencode, urlsplit

from ..manifest import MAX_BYTES
from ..minisign import MAX_KEY_TEXT
from .config import UpdaterConfig
from .errors import CheckError, DownloadError, VerificationError
from .http_client import HttpClient, resolve
from .release import MAX_CHECK_BYTES, Release, parse_release
from .transport import Transport

logger = logging.getLogger(__name__)

# A manifest of 64 MiB must come within so many time-outs. Servers under 1 kB/s are refused earlier.
MANIFEST_TIMEOUTS = 10
MAX_ROTATIONS = 100  # a change of keys every month for eight years
MAX_ROTATION_BYTES = 2 * MAX_BYTES  # of all of them: most list a program's few hundred files
SIGNATURE_SUFFIX = ".minisig"  # behind a manifest's URL, that of its signature


class ReleaseSource:
    """The server at `check_api_url`, for one update: `transport` reads the CA store only once."""

    def __init__(self, config: UpdaterConfig) -> None:
        self._config = config
        self.transport = self._transport_to(config.check_api_url)

    def active_release(self, installed: str, retry: bool = True) -> Release:
        """The release that `check/` names; `installed` is told to the server, empty for nothing.

        Where one address is away, the next of `fallback_urls` is asked. Without `retry` a refused
        connection is not tried again.

        Raises:
            CheckError: the servers are away, or the answer describes no release.
        """
        addresses = [self._config.check_api_url, *self._config.fallback_urls]
        for address, following in zip(addresses, [*addresses[1:], None]):
            try:
                return self._ask(address, installed, retry, is_last=following is None)
            except CheckError as error:
                if following is None:
                    raise
                logger.info("%s; asking %s", error, following)
                self.transport = self._transport_to(following)
        raise AssertionError("there is at least one address")

    def _transport_to(self, address: str) -> Transport:
        config = self._config
        http_client = HttpClient(
            address,
            timeout_seconds=config.timeout,
            verify_ssl=config.verify_ssl,
            ca_file=config.ca_file,
            headers=config.headers if address == config.check_api_url else None,
            proxy=config.proxy,
        )
        return Transport(http_client, retries=config.retries, chunk_size=config.chunk_size)

    def _ask(self, address: str, installed: str, retry: bool, is_last: bool) -> Release:
        logger.info("%s is installed, asking %s", installed or "nothing", address)
        try:
            url = resolve(address, "")
            if installed:
                url += ("&" if urlsplit(url).query else "?") + urlencode({"version": installed})
            # A silent server must leave the others time to answer.
            deadline_seconds = None if is_last else self._config.check_seconds
            document = self.transport.read(
                url, MAX_CHECK_BYTES, deadline_seconds=deadline_seconds, retry=retry and is_last
            )
        except DownloadError as error:
            raise CheckError(str(error)) from error
        if document.is_html:
            raise CheckError(
                f"{address} answered with a web page; "
                "the network may want a login in the browser first"
            )
        return parse_release(document.body, document.url)

    def manifest_text(self, release: Release) -> bytes:
        """The bytes of the release's manifest.

        Raises:
            DownloadError: they cannot be had.
        """
        return self._read(release.manifest_url, MAX_BYTES)

    def rotations(self, release: Release) -> Iterator[Tuple[bytes, str]]:
        """The manifests that have changed the keys, oldest first, each with its signature.

        Raises:
            DownloadError: one cannot be had; VerificationError: they are too many or too long.
        """
        left = MAX_ROTATION_BYTES
        if len(release.rotations) > MAX_ROTATIONS:
            raise VerificationError(
                f"the server names {len(release.rotations)} changes of keys, "
                f"{MAX_ROTATIONS} are allowed; nothing was installed"
            )
        for url in release.rotations:
            text = self._read(url, left)
            left -= len(text)
            signature = self._read(url + SIGNATURE_SUFFIX, MAX_KEY_TEXT)
            yield text, signature.decode("utf-8", "replace")

    def _read(self, url: str, max_bytes: int) -> bytes:
        deadline_seconds = MANIFEST_TIMEOUTS * self._config.timeout
        return self.transport.read(url, max_bytes, deadline_seconds=deadline_seconds).body
