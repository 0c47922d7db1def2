"""Starts the program, from a script or from a frozen launcher.

`command` decides from the suffix: `.py` with a Python, `.sh` with bash or sh, `.bat` and `.cmd`
with cmd on Windows, any other file directly. `start` runs it in client_dir as a `Child`: in the
same terminal and process group. Signals that only the launcher receives are forwarded to it. In a
frozen launcher (Nuitka, PyInstaller) `sys.executable` is no Python and the environment names the
launcher's own libraries; the program gets neither.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from pathlib import Path, PurePath
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

from .errors import LaunchError

PYTHON_SUFFIXES = (".py", ".pyw", ".pyz")
# Where a Python that a release contains may lie, relative to client_dir.
SHIPPED_PYTHONS = {
    "posix": ("python/bin/python3", "runtime/bin/python3", "bin/python3"),
    "nt": ("python/python.exe", "runtime/python.exe", "python.exe"),
}
# Every Windows installation from python.org has `py`; `python` may be a stub that opens the Store.
PYTHONS_ON_PATH = {"posix": ("python3", "python"), "nt": ("py", "python", "python3")}
FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
FROM_TERMINAL = ("SIGINT", "SIGQUIT", "SIGBREAK")
# Frozen launchers set these for themselves; a Python that inherits them loads the wrong libraries.
FROZEN_VARIABLES = ("PYTHONHOME", "PYTHONPATH", "TCL_LIBRARY", "TK_LIBRARY", "_MEIPASS2")
FROZEN_PREFIXES = ("NUITKA_", "_PYI_")
CREATE_NO_WINDOW = 0x08000000


def start(
    main_script: str,
    client_dir: Path,
    args: Sequence[str] = (),
    *,
    python: Optional[str] = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Starts client_dir's program; on POSIX it inherits the descriptors `pass_fds`.

    Raises:
        LaunchError: it cannot be started.
    """
    client_dir = Path(os.path.abspath(client_dir))
    main = client_dir / main_script
    if not main.is_file():
        raise LaunchError(f"there is no program {main}: is it installed, and is this its name?")
    if main.suffix.lower() in PYTHON_SUFFIXES:
        python = find_python(python, client_dir)
    line = command(main, args, python=python)
    if line == [str(main), *args] and not os.access(main, os.X_OK):
        raise LaunchError(f"{main} is not executable: publish it with its executable bit set")
    environ = child_environment(os.environ, _bundle()) if is_frozen() else dict(os.environ)
    return Child(line, main, environ, client_dir, pass_fds)


def run(
    main_script: str,
    client_dir: Path,
    args: Sequence[str] = (),
    *,
    python: Optional[str] = None,
    pass_fds: Sequence[int] = (),
) -> int:
    """Starts the program and returns its exit code; 128 + n when signal n ended it."""
    code = start(main_script, client_dir, args, python=python, pass_fds=pass_fds).wait()
    assert code is not None
    return code


def command(
    main: PurePath,
    args: Sequence[str] = (),
    *,
    system: str = os.name,
    python: Optional[str] = None,
    which: Callable[[str], Optional[str]] = shutil.which,
) -> Union[str, List[str]]:
    """The command that starts `main` on `system` ("posix" or "nt"); a string for a batch file.

    Raises:
        LaunchError: this system has nothing to start it with.
    """
    # Windows drops trailing dots and blanks of a name
    suffix = PurePath(str(main).rstrip(". ") if system == "nt" else main).suffix.lower()
    if suffix in PYTHON_SUFFIXES:
        if python is None:
            raise LaunchError(f"no Python found to run {main.name}: configure `python`")
        return [python, str(main), *args]
    if suffix == ".sh":
        shell = which("bash") or which("sh")
        if shell is None:
            raise LaunchError(
                f"{main.name} is a shell script, and there is neither bash nor sh on PATH"
            )
        return [shell, str(main), *args]
    if suffix in (".bat", ".cmd"):
        if system != "nt":
            raise LaunchError(f"{main.name} is a Windows batch file; this is not Windows")
        return batch_line(str(main), args, os.environ.get("COMSPEC", "cmd.exe"))
    return [str(main), *args]


def batch_line(script: str, args: Sequence[str], cmd: str) -> str:
    """The command line by which cmd starts a batch file with exactly these arguments.

    cmd interprets operators and variables even in quoted arguments ("BatBadBut", CVE-2024-24576).
    As in Rust's standard library: every unusual word in quotes, quotes doubled, and after each `%`
    an empty substring of %cd%.
    """
    if any(character in word for word in (script, *args) for character in "\0\r\n"):
        raise LaunchError("arguments of a batch file cannot hold line breaks")
    words = [_batch_word(script, quoted=True), *(_batch_word(word) for word in args)]
    return f'"{cmd}" /d /e:ON /v:OFF /c "{" ".join(words)}"'


def _batch_word(word: str, quoted: bool = False) -> str:
    if not quoted and re.fullmatch(r"[A-Za-z0-9#$*+\-./:?@\\_]*[A-Za-z0-9#$*+\-./:?@_]", word):
        return word  # `if "%1"=="--flag"` is how batch files look at their arguments
    word = re.sub(r'(\\*)"', r'\1\1""', word)
    word = re.sub(r"(\\+)\Z", r"\1\1", word)
    return '"' + word.replace("%", "%%cd:~,%") + '"'


def find_python(
    configured: Optional[str],
    client_dir: Path,
    *,
    system: str = os.name,
    which: Callable[[str], Optional[str]] = shutil.which,
) -> str:
    """The configured Python; else the one that runs us, one in client_dir, or one on PATH.

    Raises:
        LaunchError: there is none.
    """
    if configured is not None:
        beside = client_dir / configured
        found = str(beside) if beside.is_file() else which(configured)
        if found is None:
            raise LaunchError(
                f"the configured python, {configured}, is neither in {client_dir} nor on PATH"
            )
        return found
    if not is_frozen() and os.path.isfile(sys.executable or ""):
        return sys.executable
    for shipped in SHIPPED_PYTHONS[system]:
        if (client_dir / shipped).is_file():
            return str(client_dir / shipped)
    for name in PYTHONS_ON_PATH[system]:
        found = which(name)
        if found is not None:
            return found
    raise LaunchError(
        f"no Python found in {client_dir} or on PATH: "
        f"ship one as {SHIPPED_PYTHONS[system][0]}, or configure `python`"
    )


def exit_code(returncode: int) -> int:
    """The exit code for sys.exit() after a child that ended with `returncode`."""
    if returncode < 0:
        return 128 - returncode
    # Windows counts 0xC000013A unsigned, sys.exit() does not
    return returncode - (1 << 32) if returncode >> 31 else returncode


def is_frozen() -> bool:
    """Whether this is a frozen program: Nuitka defines `__compiled__`, others set sys.frozen."""
    return bool(
        getattr(globals().get("__compiled__"), "standalone", False) or getattr(sys, "frozen", False)
    )


def own_program() -> Path:
    """The file that the user started: a script, or a frozen launcher's binary before unpacking."""
    compiled: Any = globals().get("__compiled__")
    started = (sys.argv[0] if sys.argv else "") or "-"
    if getattr(compiled, "onefile", False):
        # in a standalone binary, containing_dir is the folder above
        return Path(compiled.containing_dir) / os.path.basename(started)
    if is_frozen() and compiled is not None:
        # Nuitka's sys.executable does not exist, but its folder is the right one
        return Path(os.path.realpath(sys.executable)).parent / os.path.basename(started)
    return Path(os.path.realpath(sys.executable if is_frozen() else started))


def own_folder() -> Path:
    """The folder of the launcher that the user started; the working directory without a script."""
    return own_program().parent


def unpack_folder() -> str:
    """The folder that a onefile launcher has unpacked, and that goes with it; empty for others."""
    bundle = os.path.realpath(_bundle())
    if getattr(globals().get("__compiled__"), "onefile", False):
        return bundle
    executable = os.path.realpath(sys.executable or "")
    is_unpacked = hasattr(sys, "_MEIPASS") and not bundle.startswith(os.path.dirname(executable))
    return bundle if is_unpacked else ""


def load_ahead() -> None:
    """Imports what `start` needs: after a swap, the module's file may be another version."""
    import signal
    import subprocess

    assert signal and subprocess


def occupy_standard_streams() -> None:
    """Opens the descriptors 0 to 2 that are closed; services and desktops start programs so.

    Otherwise a lock or log file gets such a number, and the program prints into it.
    """
    for descriptor in range(3 if os.name == "posix" else 0):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _bundle() -> str:
    """The folder of a frozen launcher's own libraries."""
    return str(getattr(sys, "_MEIPASS", os.path.dirname(sys.executable or "")))


def child_environment(environ: Mapping[str, str], bundle: str) -> Dict[str, str]:
    """A frozen launcher's environment without what the launcher's own start has added."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in FROZEN_VARIABLES and not name.startswith(FROZEN_PREFIXES)
    }
    for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LIBPATH"):
        before = kept.pop(name + "_ORIG", None)
        folders = kept.pop(name, "") if before is None else before
        others = [
            folder
            for folder in folders.split(":")
            if folder and not (bundle and (folder + "/").startswith(bundle + "/"))
        ]
        if others:
            kept[name] = ":".join(others)
    return kept


class Child:
    """The started program; until `wait` returns its exit code, signals to the launcher go to it."""

    def __init__(
        self,
        line: Union[str, List[str]],
        main: Path,
        environ: Mapping[str, str],
        client_dir: Path,
        pass_fds: Sequence[int],
    ) -> None:
        import subprocess

        self.interrupted = False  #: a signal reached us while it ran: its exit code is no crash
        self._early: List[int] = []
        self._handlers: Dict[int, Any] = {}
        self._process: Optional[subprocess.Popen[bytes]] = None
        # before the start: a signal in between would leave the program without a parent
        self._take_signals()
        # without a console of our own, a console program would open a black window
        windowless = os.name == "nt" and sys.stdout is None and sys.stderr is None
        try:
            self._process = subprocess.Popen(
                line,
                cwd=client_dir,
                env=environ,
                pass_fds=pass_fds if os.name == "posix" else (),
                creationflags=CREATE_NO_WINDOW if windowless else 0,
            )
        except (OSError, TypeError, ValueError) as error:
            self._give_signals_back()
            raise LaunchError(
                f"{main} cannot be started: {getattr(error, 'strerror', None) or error}"
            ) from error
        self.process_id = self._process.pid
        for number in self._early:
            self._process.send_signal(number)

    def wait(self, timeout_seconds: Optional[float] = None) -> Optional[int]:
        """The exit code, 128 + n for signal n; None if it still runs after `timeout_seconds`."""
        import subprocess

        assert self._process is not None
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        except BaseException:
            self._give_signals_back()
            raise
        self._give_signals_back()
        return exit_code(code)

    def _take_signals(self) -> None:
        import signal

        if threading.current_thread() is not threading.main_thread():
            return  # Python sets handlers only from the main thread
        for name in FORWARDED + FROM_TERMINAL:
            number = getattr(signal, name, None)
            if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
                continue  # nohup's SIGHUP stays ignored, by both; None: a handler in C stays
            # a function and not SIG_IGN, which the program would inherit
            handler = self._forward if name in FORWARDED else self._forward_unless_typed
            self._handlers[number] = signal.signal(number, handler)

    def _give_signals_back(self) -> None:
        import signal

        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _forward(self, number: int, _: object) -> None:
        self.interrupted = True
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)

    def _forward_unless_typed(self, number: int, frame: object) -> None:
        """Ctrl-C in a terminal also reaches the program, which must not get it twice.

        `kill -INT` reaches only us.
        """
        self.interrupted = True
        if sys.platform == "win32":
            return
        try:
            with open("/dev/tty") as terminal:
                typed = os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
        except OSError:
            typed = False  # a service, a container, a test
        if not typed:
            self._forward(number, frame)
