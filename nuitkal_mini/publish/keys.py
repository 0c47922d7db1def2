"""Key files on the developer's disk, and where their passwords come from.

A secret key is readable by its owner alone and never overwritten: whoever loses it can never again
update the programs that trust only it. Passwords are typed without echo or come as one line of
standard input, never as an argument, which every process of the machine could read.
"""

from __future__ import annotations

import os
import sys
from getpass import getpass
from pathlib import Path
from typing import Callable

from ..manifest import loads
from ..minisign import PublicKey, ReleaseComment
from ..problem import Problem
from ..signing import (
    SecretKey,
    WrongPassword,
    parse_secret_key,
    public_key,
    public_key_text,
    release_comment_text,
    secret_key_text,
)


class KeyFileError(Problem):
    """A key file or a password that cannot be used."""


def keygen(path: Path, password: str) -> PublicKey:
    """Make a key pair: `path` (mode 600, encrypted unless `password` is empty) and `path`.pub.

    Raises:
        KeyFileError: one of the two exists.
        OSError: they cannot be written.
    """
    refuse_existing(path)
    secret = SecretKey(os.urandom(8), os.urandom(32))
    public = public_key(secret)
    _write_new(path, secret_key_text(secret, password, os.urandom(32)), 0o600)
    _write_new(public_path(path), public_key_text(public), 0o644)
    return public


def refuse_existing(path: Path) -> None:
    """Refuse a key whose files exist. Also for before the password is asked."""
    for file in (path, public_path(path)):
        if os.path.lexists(file):
            raise KeyFileError(
                "{path} exists; a key is never overwritten: move it away, or choose another name",
                path=file,
            )


def public_path(path: Path) -> Path:
    """Where the public half of the key `path` lies."""
    return path.with_name(path.name + ".pub")


def _write_new(path: Path, text: str, mode: int) -> None:
    with open(
        path,
        "x",
        encoding="utf-8",
        newline="\n",
        opener=lambda name, flags: os.open(name, flags, mode),
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def load_secret_key(path: Path, ask_password: Callable[[], str]) -> SecretKey:
    """The secret key in the file `path`; `ask_password` is called only when it has a password.

    Raises:
        SignatureError: not a secret key, or (WrongPassword) not its password.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        return parse_secret_key(content)
    except WrongPassword:
        return parse_secret_key(content, ask_password())


def trusted_comment(content: bytes, name: str, timestamp: int) -> str:
    """The trusted comment for the file `name`: a manifest's app and version, else as minisign."""
    try:
        manifest = loads(content)
    except Problem:
        return f"timestamp:{timestamp}\tfile:{name}\thashed"
    return release_comment_text(ReleaseComment(timestamp, manifest.app, manifest.version))


def new_password(from_stdin: bool) -> str:
    """The password for a new key: a line of standard input, or typed twice.

    Without a terminal there is none.
    """
    if from_stdin:
        return _stdin_password()
    if not sys.stdin.isatty():
        return ""
    password = getpass("Password for the new key (empty: none): ")
    if password and getpass("The same again: ") != password:
        raise KeyFileError("the two passwords differ; no key was made")
    return password


def password_for(path: Path, from_stdin: bool) -> str:
    """The password of the key `path`: a line of standard input, or typed."""
    if from_stdin:
        return _stdin_password()
    if not sys.stdin.isatty():
        raise KeyFileError(
            "{path} has a password; run this on a terminal, or give it with --password-stdin",
            path=path,
        )
    return getpass(f"Password for {path}: ")


def _stdin_password() -> str:
    password = sys.stdin.readline().rstrip("\r\n")
    # A broken pipe rather than a wish, and a key without password looks no different.
    if not password:
        raise KeyFileError("--password-stdin: standard input brought no password")
    return password
