"""`UpdaterConfig`: the settings of the updater.

A plain class and not a dataclass: `dataclasses` would cost a quarter of the import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence, Union

ProgressCallback = Callable[[int, int], object]


class UpdaterConfig:
    """Settings of a `ClientUpdater`; every one is an attribute that may be set afterwards.

    Args:
        check_api_url: the server's `check/`, of the channel to follow.
        client_dir: the folder that holds the program, and that the updater fills.
        main_script: what to start in it: .py, .sh, .bat, .cmd or an executable.
        version_file: the updater's own file in it.
        timeout: seconds for each network operation.
        chunk_size: bytes between two calls of `progress_callback(downloaded, total)`.
        verify_ssl: False accepts any certificate, and warns.
        app: the program's name; None remembers that of the first release installed.
        public_keys: minisign public keys, oldest first; with any at all only releases signed by one
            of them are installed.
        allow_downgrade: None follows the server's active version both ways, but never downwards
            with `public_keys`; False never goes to a lower version; True goes below the highest
            version seen, never below a signed minimum.
        preserve: patterns (`config/*.ini`) of files whose local edits survive.
        retries: attempts after the first, for what another attempt may help.
        python: the interpreter for a .py; None finds one.
        ca_file: certificates (PEM) to trust in place of the system's.
        headers: sent to the server of `check_api_url` only.
        log_file: where to log; None: `.update/log.txt`; False: nowhere. Rotates at 1 MB.
        confirm_seconds: how long a new version must live to be kept; 0 trusts it at once.
        check_seconds: how long a start may wait for the check; a later answer is used behind it.
        lock_seconds: how long to wait for another updater on the same folder.
        trust_owner: True accepts a folder of another user, as on a share without owners.
        max_age_days: how old the newest signature may be before a check fails; None: any age.
        minimum_version: versions below it are refused.
        proxy: the URL of an HTTP proxy (`http://user:password@host:port`); None means the system's,
            "" none. Hosts in the environment's `no_proxy` are asked directly in each case.
        wait_seconds: how long an update may hold a start up; then the program starts, and the
            download goes on behind it for the next start. 0: not for the network, None: as long as
            it takes. A first install is waited for in any case.
        fallback_urls: further `check/` addresses, tried in order when the one before is away.
        adopt: True takes files that are at a release's paths before the first install for the
            program, as `ClientUpdater.adopt` does.
    """

    def __init__(
        self,
        check_api_url: str,
        client_dir: Union[str, Path] = Path("client"),
        main_script: str = "main.py",
        version_file: str = "local_version.json",
        timeout: float = 30.0,
        chunk_size: int = 8192,
        verify_ssl: bool = True,
        progress_callback: Optional[ProgressCallback] = None,
        *,
        app: Optional[str] = None,
        public_keys: Sequence[str] = (),
        allow_downgrade: Optional[bool] = None,
        preserve: Sequence[str] = (),
        retries: int = 3,
        python: Optional[str] = None,
        ca_file: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None,
        log_file: Union[None, bool, str, Path] = None,
        confirm_seconds: float = 0.0,
        check_seconds: float = 5.0,
        lock_seconds: float = 10.0,
        max_age_days: Optional[float] = None,
        trust_owner: bool = False,
        minimum_version: Optional[str] = None,
        proxy: Optional[str] = None,
        wait_seconds: Optional[float] = 30.0,
        fallback_urls: Sequence[str] = (),
        adopt: bool = False,
    ) -> None:
        self.check_api_url = check_api_url
        self.client_dir = Path(client_dir)
        self.main_script = main_script
        self.version_file = version_file
        self.timeout = timeout
        self.chunk_size = chunk_size
        self.verify_ssl = verify_ssl
        self.progress_callback = progress_callback
        self.app = app
        self.public_keys = public_keys
        self.allow_downgrade = allow_downgrade
        self.preserve = preserve
        self.retries = retries
        self.python = python
        self.ca_file = ca_file
        self.headers = headers
        self.log_file = log_file
        self.confirm_seconds = confirm_seconds
        self.check_seconds = check_seconds
        self.lock_seconds = lock_seconds
        self.max_age_days = max_age_days
        self.trust_owner = trust_owner
        self.minimum_version = minimum_version
        self.proxy = proxy
        self.wait_seconds = wait_seconds
        self.fallback_urls = fallback_urls
        self.adopt = adopt
