"""How to start a program of each kind, from a script or from a frozen launcher.

`command` decides from the suffix: `.py` with a Python, `.sh` with bash or sh, `.bat` and `.cmd` with cmd on Windows, anything
else as it is. `start` runs it in client_dir as our `Child`: same terminal, same process group, its exit code becomes ours,
and signals that reach only us go on to it. A frozen launcher (Nuitka, PyInstaller) has a `sys.executable` that is no Python
and an environment that speaks of its own libraries; neither is handed on.
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
# Where a Python may lie that a release brings along, relative to client_dir.
SHIPPED_PYTHONS = {
    "posix": ("python/bin/python3", "runtime/bin/python3", "bin/python3"),
    "nt": ("python/python.exe", "runtime/python.exe", "python.exe"),
}
# Windows has the py launcher in every installation from python.org, while its `python` may be a stub that opens the Store.
PYTHONS_ON_PATH = {"posix": ("python3", "python"), "nt": ("py", "python", "python3")}
FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
FROM_TERMINAL = ("SIGINT", "SIGQUIT", "SIGBREAK")
# What frozen launchers set for themselves; a Python that inherits them loads the wrong standard library or the wrong Tcl.
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
    """Starts client_dir's program; `pass_fds` are file descriptors that it inherits (POSIX). Raises LaunchError."""
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
    """Starts the program and gives back its exit code; 128 + n when signal n ended it."""
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
    """The command that starts `main` on that system ("posix" or "nt"); one string where Windows must get its own quoting."""
    suffix = PurePath(
        str(main).rstrip(". ") if system == "nt" else main
    ).suffix.lower()  # Windows drops trailing dots
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

    cmd reads operators and variables in them whatever the usual quoting says ("BatBadBut", CVE-2024-24576), so this is
    Rust's answer to it: everything odd in quotes, quotes doubled, and `%` followed by an empty piece of %cd%.
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
    """The configured Python; else the one that runs us, one in client_dir, or one on PATH. Raises LaunchError."""
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
        f"no Python found in {client_dir} or on PATH: ship one as {SHIPPED_PYTHONS[system][0]}, or configure `python`"
    )


def exit_code(returncode: int) -> int:
    """What to exit with after a child that ended so; it fits sys.exit()."""
    if returncode < 0:
        return 128 - returncode
    return (
        returncode - (1 << 32) if returncode >> 31 else returncode
    )  # Windows counts 0xC000013A unsigned, sys.exit() does not


def is_frozen() -> bool:
    """Nuitka compiles `__compiled__` into each module, PyInstaller and the like set sys.frozen."""
    return bool(
        getattr(globals().get("__compiled__"), "standalone", False) or getattr(sys, "frozen", False)
    )


def own_program() -> Path:
    """The file that the user started: the launcher's binary when frozen (not what a onefile unpacked), else its script."""
    compiled: Any = globals().get("__compiled__")
    started = (sys.argv[0] if sys.argv else "") or "-"
    if getattr(compiled, "onefile", False):
        return Path(compiled.containing_dir) / os.path.basename(
            started
        )  # of a standalone binary, this would be the folder above
    if (
        is_frozen() and compiled is not None
    ):  # Nuitka's sys.executable is a Python that is not there, but in the right folder
        return Path(os.path.realpath(sys.executable)).parent / os.path.basename(started)
    return Path(os.path.realpath(sys.executable if is_frozen() else started))


def own_folder() -> Path:
    """Where the launcher lies that the user started, or the working directory when Python was started without a script."""
    return own_program().parent


def load_ahead() -> None:
    """Loads what `start` will import: after a swap its file may be another one."""
    import signal
    import subprocess

    assert signal and subprocess


def occupy_standard_streams() -> None:
    """Opens those of the descriptors 0 to 2 that a service or a desktop started us without.

    Else our lock or log file would get such a number, and the program would print into it.
    """
    for descriptor in range(3 if os.name == "posix" else 0):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _bundle() -> str:
    """The folder of the libraries that a frozen launcher runs on."""
    return str(getattr(sys, "_MEIPASS", os.path.dirname(sys.executable or "")))


def child_environment(environ: Mapping[str, str], bundle: str) -> Dict[str, str]:
    """A frozen launcher's environment as it was before the launcher's own start."""
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
    """The started program; until `wait` has its exit code, signals that reach us go on to it."""

    def __init__(
        self,
        line: Union[str, List[str]],
        main: Path,
        environ: Mapping[str, str],
        client_dir: Path,
        pass_fds: Sequence[int],
    ) -> None:
        import subprocess

        self.interrupted = False  #: a signal reached us while it ran: what it ends with is no crash
        self._early: List[int] = []
        self._handlers: Dict[int, Any] = {}
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._take_signals()  # before the start: a signal in between would leave the program without a parent
        windowless = os.name == "nt" and sys.stdout is None and sys.stderr is None
        try:
            self._process = subprocess.Popen(
                line,
                cwd=client_dir,
                env=environ,
                pass_fds=pass_fds if os.name == "posix" else (),
                creationflags=CREATE_NO_WINDOW if windowless else 0,
            )  # or a console program would open a black window
        except (OSError, ValueError) as error:
            self._give_signals_back()
            raise LaunchError(
                f"{main} cannot be started: {getattr(error, 'strerror', None) or error}"
            ) from error
        for number in self._early:
            self._process.send_signal(number)

    def wait(self, timeout_seconds: Optional[float] = None) -> Optional[int]:
        """The exit code, 128 + n for signal n; None if the program still runs after `timeout_seconds`."""
        import subprocess

        assert self._process is not None
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        self._give_signals_back()
        return exit_code(code)

    def _take_signals(self) -> None:
        import signal

        if threading.current_thread() is not threading.main_thread():
            return  # Python lets nobody else have them
        for name in FORWARDED + FROM_TERMINAL:
            number = getattr(signal, name, None)
            if (
                number is not None and signal.getsignal(number) != signal.SIG_IGN
            ):  # nohup's SIGHUP stays ignored, by both
                # A function, and not SIG_IGN: that one the program would inherit.
                self._handlers[number] = signal.signal(
                    number, self._forward if name in FORWARDED else self._forward_unless_typed
                )

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
        """Ctrl-C in a terminal reaches the program as well, and twice would be once too often; `kill -INT` reaches only us."""
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
