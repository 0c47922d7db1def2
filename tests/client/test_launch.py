"""Starting programs: the command on each system; what a real child process gets and gives back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuitkal_mini.client import launch
from nuitkal_mini.client.errors import LaunchError

REPOSITORY = Path(__file__).resolve().parents[2]
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def found(*names: str):
    return lambda name: f"/usr/bin/{name}" if name in names else None


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    path.chmod(mode)
    return path


# --- commands


@pytest.mark.parametrize(
    "system, main, names, line",
    [
        pytest.param("posix", "/app/main.py", [], ["/py", "/app/main.py", "a b"], id="py"),
        pytest.param("nt", "C:/app/Main.PYW", [], ["/py", "C:\\app\\Main.PYW", "a b"], id="pyw"),
        pytest.param(
            "posix",
            "/app/run.sh",
            ["sh", "bash"],
            ["/usr/bin/bash", "/app/run.sh", "a b"],
            id="sh with bash",
        ),
        pytest.param(
            "posix",
            "/app/run.sh",
            ["sh"],
            ["/usr/bin/sh", "/app/run.sh", "a b"],
            id="sh without bash",
        ),
        pytest.param("posix", "/app/run", [], ["/app/run", "a b"], id="program"),
        pytest.param(
            "posix",
            "/A.app/Contents/MacOS/A",
            [],
            ["/A.app/Contents/MacOS/A", "a b"],
            id="macOS program",
        ),
        pytest.param("nt", "C:/app/run.exe", [], ["C:\\app\\run.exe", "a b"], id="exe"),
        pytest.param(
            "nt",
            "C:/my app/run.bat",
            [],
            '"cmd.exe" /d /e:ON /v:OFF /c ""C:\\my app\\run.bat" "a b""',
            id="bat",
        ),
        pytest.param(
            "nt",
            "C:/app/run.CMD. .",
            [],
            '"cmd.exe" /d /e:ON /v:OFF /c ""C:\\app\\run.CMD. ." "a b""',
            id="cmd in disguise",
        ),
    ],
)
def test_the_command_for_each_kind_and_system(monkeypatch, system, main, names, line):
    monkeypatch.delenv("COMSPEC", raising=False)
    path = PurePosixPath(main) if system == "posix" else PureWindowsPath(main)
    assert launch.command(path, ["a b"], system=system, python="/py", which=found(*names)) == line


@pytest.mark.parametrize(
    "system, main, word",
    [
        ("posix", "run.bat", "not Windows"),
        ("posix", "run.cmd", "not Windows"),
        ("nt", "run.sh", "neither bash nor sh"),
        ("posix", "main.py", "configure `python`"),
    ],
)
def test_what_cannot_run_here_is_a_sentence(system, main, word):
    with pytest.raises(LaunchError, match=word):
        launch.command(PurePosixPath(main), system=system, which=found())


@pytest.mark.parametrize(
    "word, quoted",
    [
        ("plain", "plain"),
        ("--flag", "--flag"),
        ("C:\\a\\b", "C:\\a\\b"),
        ("C:\\a\\", '"C:\\a\\\\"'),
        ("", '""'),
        ("a b", '"a b"'),
        ("a&calc", '"a&calc"'),
        ("a|b", '"a|b"'),
        ("^", '"^"'),
        ('say "hi"', '"say ""hi"""'),
        ('\\"&calc&"', '"\\\\""&calc&"""'),
        ("%PATH%", '"%%cd:~,%PATH%%cd:~,%"'),
        ("a=b", '"a=b"'),
        ("中", '"中"'),
    ],
)
def test_the_arguments_of_a_batch_file(word, quoted):
    assert launch.batch_line("s", [word], "cmd") == f'"cmd" /d /e:ON /v:OFF /c ""s" {quoted}"'


@given(
    st.lists(st.text(st.characters(blacklist_characters="\0\r\n", blacklist_categories=("Cs",))))
)
def test_cmd_finds_no_operator_and_no_variable_in_any_argument(words):
    line = launch.batch_line("run.bat", words, "cmd")
    inside = line[len('"cmd" /d /e:ON /v:OFF /c "') : -1]
    expanded = inside.replace("%cd:~,%", "")  # cmd expands variables before it looks at quotes
    assert expanded.count("%") == sum(word.count("%") for word in words) and not re.search(
        r"%[^%]+%", inside.replace("%%cd:~,%", "")
    )
    outside = "".join(expanded.split('"')[::2])  # a quote always toggles
    assert expanded.count('"') % 2 == 0 and not set(outside) & set("&|<>^()!,;=\t")


@given(st.lists(st.text(st.sampled_from('a \\"%&'), max_size=8)))
def test_a_program_behind_a_batch_file_gets_the_same_arguments(words):
    """`%*` hands the text on, and the C runtime splits it.

    2n backslashes and a quote are n backslashes, "" is a quote.
    """
    rest = launch.batch_line("s", words, "cmd")[len('"cmd" /d /e:ON /v:OFF /c ""s"') : -1].replace(
        "%%cd:~,%", "%"
    )
    got: List[str] = []
    for word in re.findall(r' ("(?:\\.|""|[^"\\])*"|[^ "]+)', rest):
        if word[0] == '"':
            word = re.sub(
                r'(\\+)(?="")',
                lambda m: m[1][len(m[1]) // 2 :],
                word[1:-1].replace('\\\\"', '\\\\"'),
            )
            word = re.sub(r"(\\+)$", lambda m: m[1][len(m[1]) // 2 :], word).replace('""', '"')
        got.append(word)
    assert got == words


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_a_line_break_for_a_batch_file_is_refused(bad):
    with pytest.raises(LaunchError, match="line breaks"):
        launch.batch_line("run.bat", [bad], "cmd")


# --- which Python


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)


def test_a_script_runs_on_the_python_that_runs_us(tmp_path):
    write(tmp_path / "python/bin/python3", "")
    assert (
        launch.find_python(None, tmp_path, system="posix", which=found("python3")) == sys.executable
    )


@pytest.mark.parametrize("missing", ["", None, "/tmp/onefile_1_2/python"])
def test_a_sys_executable_that_is_not_there_is_not_used(monkeypatch, tmp_path, missing):
    monkeypatch.setattr(sys, "executable", missing)
    assert (
        launch.find_python(None, tmp_path, system="posix", which=found("python3"))
        == "/usr/bin/python3"
    )


@pytest.mark.parametrize(
    "system, shipped, names, expected",
    [
        ("posix", "python/bin/python3", ["python3"], "python/bin/python3"),
        ("posix", "runtime/bin/python3", [], "runtime/bin/python3"),
        ("nt", "python/python.exe", ["py"], "python/python.exe"),
        ("nt", None, ["python", "py"], "/usr/bin/py"),
        ("posix", None, ["python"], "/usr/bin/python"),
    ],
)
def test_a_frozen_launcher_looks_in_the_release_and_on_path(
    tmp_path, frozen, system, shipped, names, expected
):
    if shipped:
        write(tmp_path / shipped, "")
    assert launch.find_python(None, tmp_path, system=system, which=found(*names)) == str(
        tmp_path / expected if shipped else expected
    )


def test_without_any_python_the_error_says_what_to_configure(tmp_path, frozen):
    with pytest.raises(LaunchError, match="configure `python`"):
        launch.find_python(None, tmp_path, system="posix", which=found())


def test_the_configured_python_comes_first_and_must_exist(tmp_path):
    own = write(tmp_path / "rt/python", "")
    assert launch.find_python("rt/python", tmp_path) == str(own)
    assert launch.find_python(sys.executable, tmp_path) == sys.executable
    assert (
        launch.find_python("python3.8", tmp_path, which=found("python3.8")) == "/usr/bin/python3.8"
    )
    with pytest.raises(LaunchError, match="nowhere/python"):
        launch.find_python("nowhere/python", tmp_path, which=found("python3"))


# --- the environment


def test_a_frozen_launchers_environment_is_not_handed_on():
    environ = {
        "HOME": "/h",
        "PYTHONHOME": "/tmp/_MEI1",
        "PYTHONPATH": "x",
        "TCL_LIBRARY": "x",
        "NUITKA_ONEFILE_PARENT": "1",
        "_PYI_ARCHIVE_FILE": "x",
        "NUITKAL_TOKEN": "t",
        "LD_LIBRARY_PATH": "/tmp/_MEI1:/opt/x",
        "LD_LIBRARY_PATH_ORIG": "/opt/x",
        "DYLD_LIBRARY_PATH": "/tmp/_MEI1",
    }
    assert launch.child_environment(environ, "/tmp/_MEI1") == {
        "HOME": "/h",
        "NUITKAL_TOKEN": "t",
        "LD_LIBRARY_PATH": "/opt/x",
    }


def test_the_users_own_library_path_stays():
    assert launch.child_environment(
        {"LD_LIBRARY_PATH": "/tmp/_MEI1/lib:/tmp/_MEI12:/nix/lib"}, "/tmp/_MEI1"
    ) == {"LD_LIBRARY_PATH": "/tmp/_MEI12:/nix/lib"}


# --- real children


def launcher(
    main: str, folder: Path, *args: str, before: str = "pass", **options: Any
) -> subprocess.Popen[bytes]:
    """A process that runs `launch.run`, as the user's launcher does."""
    code = (
        f"import sys; from pathlib import Path; from nuitkal_mini.client import launch; {before}; "
        "sys.exit(launch.run(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))"
    )
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": REPOSITORY, **options}
    return subprocess.Popen([sys.executable, "-c", code, main, str(folder), *args], **options)


def test_arguments_folder_streams_and_exit_code_pass_through(tmp_path):
    folder = tmp_path / "My 程序 🙂"
    write(
        folder / "main.py",
        "import os, sys; print(os.getcwd(), sys.argv[1:], sys.stdin.read()); sys.exit(7)",
    )
    process = launcher(
        "main.py", folder, "a b", '"', "--", "", env={**os.environ, "PYTHONIOENCODING": "utf-8"}
    )
    out, _ = process.communicate(b"typed")
    assert (process.returncode, out.decode("utf-8").strip()) == (
        7,
        f"{os.path.realpath(folder)} {['a b', chr(34), '--', '']} typed",
    )


@posix_only
@pytest.mark.parametrize(
    "main, mode, code", [("run.sh", 0o644, 3), ("run", 0o755, 3), ("killed", 0o755, 128 + 9)]
)
def test_scripts_and_programs_run(tmp_path, main, mode, code):
    write(
        tmp_path / main,
        "#!/bin/sh\nkill -9 $$"
        if main == "killed"
        else '#!/bin/sh\n[ "$1" = \'a  b\' ] && [ "$PWD" = "$(pwd -P)" ] && exit 3',
        mode,
    )
    assert launch.run(main, tmp_path, ["a  b"]) == code


@posix_only
@pytest.mark.parametrize(
    "main, text, mode, word",
    [
        ("run", "#!/bin/sh", 0o644, "not executable"),
        ("run", "no program", 0o755, "Exec format"),
        ("run", "#!/no/such", 0o755, "cannot be started"),
        ("run.bat", "", 0o644, "not Windows"),
        ("other", "", 0o644, "no program"),
    ],
)
def test_what_does_not_start_is_a_launch_error(tmp_path, main, text, mode, word):
    write(tmp_path / (main if word != "no program" else "x"), text, mode)
    with pytest.raises(LaunchError, match=word):
        launch.run(main, tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_argument_that_no_system_can_pass_is_a_launch_error(tmp_path):
    write(tmp_path / "main.py", "")
    with pytest.raises(LaunchError, match="null"):
        launch.run("main.py", tmp_path, ["a\0b"])


def test_a_trial_can_look_in_between(tmp_path):
    write(tmp_path / "main.py", "import sys; sys.stdin.read(); sys.exit(5)")
    reading, writing = os.pipe()
    before = os.dup(0)
    os.dup2(reading, 0)
    try:
        child = launch.start("main.py", tmp_path)
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reading)
    assert child.wait(0.05) is None
    os.close(writing)
    assert child.wait(10) == 5 and child.wait() == 5


@posix_only
def test_the_child_inherits_the_lock(tmp_path):
    reading, writing = os.pipe()
    write(tmp_path / "main.py", "import os, sys; os.write(int(sys.argv[1]), b'held')")
    assert launch.run("main.py", tmp_path, [str(writing)], pass_fds=(writing,)) == 0
    assert os.read(reading, 10) == b"held"
    os.close(reading)
    os.close(writing)


COUNTING = """
    import signal, sys, time
    got = []
    for name in sys.argv[1:]:
        signal.signal(getattr(signal, name), lambda n, _: got.append(n))
    print("ready", flush=True)
    while not got:
        time.sleep(0.01)
    time.sleep(0.2)
    print(len(got), flush=True)
    sys.exit(got[0])
"""


@posix_only
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"])
def test_a_signal_to_the_launcher_alone_reaches_the_program_once(tmp_path, name):
    write(tmp_path / "main.py", COUNTING)
    process = launcher("main.py", tmp_path, name, start_new_session=True)  # no terminal
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate()
    assert (out, process.returncode) == (b"1\n", getattr(signal, name))


@posix_only
def test_a_program_that_a_signal_ends_gives_128_and_its_number(tmp_path):
    write(tmp_path / "main.py", "print('ready', flush=True); import time; time.sleep(60)")
    process = launcher("main.py", tmp_path)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + 15


@pytest.mark.parametrize(
    "returncode, code",
    [(0, 0), (255, 255), (-9, 137), (0xC000013A, -1073741510), (0x7FFFFFFF, 0x7FFFFFFF)],
)
def test_exit_codes_fit_every_system(returncode, code):
    assert launch.exit_code(returncode) == code


@posix_only
def test_nohup_holds_for_the_program_as_well(tmp_path):
    write(tmp_path / "main.py", "import signal; print(signal.getsignal(signal.SIGHUP).name)")
    process = launcher(
        "main.py", tmp_path, before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    )
    assert process.communicate()[0] == b"SIG_IGN\n"


@posix_only
def test_ctrl_c_in_a_terminal_reaches_the_program_once_and_leaves_the_launcher_alive(tmp_path):
    import fcntl
    import pty
    import termios

    write(tmp_path / "main.py", COUNTING)
    terminal, inside = pty.openpty()
    late = (  # two signals at once would be one
        "import time; forward = launch.Child._forward; "
        "launch.Child._forward = lambda *a: (time.sleep(0.1), forward(*a))"
    )
    process = launcher(
        "main.py",
        tmp_path,
        "SIGINT",
        before=late,
        stdin=inside,
        stdout=inside,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(inside)
    output = b""
    while b"ready" not in output:
        output += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while not output.rstrip().endswith(b"1"):
        output += os.read(terminal, 1000)
    assert process.wait() == signal.SIGINT
    os.close(terminal)


def test_from_another_thread_a_program_runs_all_the_same(tmp_path):
    import threading

    write(tmp_path / "main.py", "raise SystemExit(4)")
    codes: List[int] = []
    thread = threading.Thread(target=lambda: codes.append(launch.run("main.py", tmp_path)))
    thread.start()
    thread.join()
    assert codes == [4]


def test_the_signal_handlers_are_as_before_when_the_program_has_ended(tmp_path):
    write(tmp_path / "main.py", "")
    assert launch.run("main.py", tmp_path) == 0
    assert (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )


# --- where we are


@posix_only  # few on Windows may make links
def test_a_script_knows_its_folder_even_behind_a_link(tmp_path):
    script = write(
        tmp_path / "real dir" / "launcher.py",
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from nuitkal_mini.client import launch; print(launch.own_folder())",
    )
    link = tmp_path / "link.py"
    link.symlink_to(script)
    out = subprocess.run(
        [sys.executable, str(link), str(REPOSITORY)], stdout=subprocess.PIPE, cwd="/", check=True
    ).stdout
    assert out.decode().strip() == os.path.realpath(script.parent)


def test_a_frozen_binary_knows_its_folder(monkeypatch, tmp_path, frozen):
    binary = write(tmp_path / "app", "")
    monkeypatch.setattr(sys, "executable", str(binary))
    assert launch.own_folder() == Path(os.path.realpath(tmp_path))


@pytest.mark.parametrize("argv", [[], [""], ["-c"]])
def test_without_a_script_the_working_directory_is_our_folder(monkeypatch, tmp_path, argv):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", argv)
    assert launch.own_folder() == Path(os.path.realpath(tmp_path))


class Compiled:
    """The `__compiled__` of Nuitka 4.3; a standalone's containing_dir is the folder above."""

    def __init__(self, onefile: bool, containing_dir: str) -> None:
        self.standalone, self.onefile, self.containing_dir = True, onefile, containing_dir


@pytest.mark.parametrize(
    "onefile, executable, containing",
    [(False, "/opt/app/python", "/opt"), (True, "/tmp/onefile_1_2/python", "/opt/app")],
)
@pytest.mark.parametrize(
    "started", ["/opt/app/start", "start"]
)  # older ones left a bare name from PATH as it was
def test_a_nuitka_binary_knows_its_file_in_either_mode(
    monkeypatch, onefile, executable, containing, started
):
    monkeypatch.setattr(launch, "__compiled__", Compiled(onefile, containing), raising=False)
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "argv", [started])
    assert (
        os.path.realpath(launch.own_program()) == os.path.realpath("/opt/app/start")
        and launch.own_folder() == launch.own_program().parent
    )
