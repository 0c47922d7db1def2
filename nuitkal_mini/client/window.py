"""A window that shows the update, for programs without a console: what is happening, a bar,
speed, and Cancel.

`update_and_run_in_window` is `ClientUpdater.update_and_run` with that window. It appears only
when the update takes longer than half a second, and not at all without a display or without
tkinter, which is imported only then. The update works in a thread of its own and the window in
the main one, as toolkits want it; the program is started when the window has gone.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Optional, Sequence

from ..progress import TransferRate
from .config import UpdaterConfig
from .errors import LaunchError, UpdaterError
from .updater import ClientUpdater

APPEARS_AFTER_SECONDS = 0.5  # most updates find nothing; a window that flashes looks like a fault
LEAVE_BEHIND_SECONDS = 2.0  # after Cancel: a connection that hangs is not waited for
REDRAW_SECONDS = 0.05
BAR_STEPS = 1000


def update_and_run_in_window(
    config: UpdaterConfig, args: Optional[Sequence[str]] = None, *, title: str = ""
) -> int:
    """Update if possible, start the program in any case; its exit code. `title` is the program's
    name for people.

    Raises:
        LaunchError: there is nothing to start, or it cannot be started; the window has said so.
    """
    update = _Update(config)
    update.thread.join(APPEARS_AFTER_SECONDS)
    shown = update.thread.is_alive() and _show(update, title or config.app or config.main_script)
    if not shown:
        while update.thread.is_alive():
            update.thread.join(0.1)  # in slices: Windows sees Ctrl-C only between waits
    update.end()
    try:
        return update.updater.run(args)
    except LaunchError as error:
        _show_error(title or config.app or config.main_script, str(error))
        raise


class _Update(logging.Handler):
    """The update in its thread.

    What the window shows of it are its last log line and its progress.
    """

    def __init__(self, config: UpdaterConfig) -> None:
        super().__init__(logging.INFO)
        self.said = "Looking for an update…"
        self.downloaded = self.total = 0
        self.error: Optional[UpdaterError] = None
        self.cancelled = False
        self._callback, config.progress_callback = config.progress_callback, self._progress
        self.updater = ClientUpdater(config)
        self._log = logging.getLogger("nuitkal_mini.client")
        self._level = self._log.level
        self._log.setLevel(min(self._log.getEffectiveLevel(), logging.INFO))
        self._log.addHandler(self)
        self.thread = threading.Thread(target=self._work, name="update", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        self.error = self.updater.try_update()

    def _progress(self, downloaded: int, total: int) -> None:
        self.downloaded, self.total = downloaded, total
        if self._callback is not None:
            self._callback(downloaded, total)

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage()

    def end(self) -> None:
        """The configuration and the log as they were."""
        self._log.removeHandler(self)
        self._log.setLevel(self._level)
        self.updater.config.progress_callback = self._callback


def _show(update: _Update, title: str) -> bool:
    """Shows the update until it has ended or was cancelled.

    False when no window can be shown here.
    """
    window = _window(title)
    if window is None:
        return False
    try:
        window.follow(update)
    finally:
        window.close()
    return True


def _show_error(title: str, sentence: str) -> None:
    window = _window(title)
    if window is not None:
        window.tell(sentence, "Close")
        window.close()


def _window(title: str) -> Optional[_Window]:
    try:
        import tkinter

        return _Window(title)
    except ImportError:  # many Linux distributions split tkinter off
        return None
    except tkinter.TclError:  # no display
        return None


class _Window:
    """Name, one line of text, bar, numbers, one button."""

    def __init__(self, title: str) -> None:
        import tkinter
        from tkinter import ttk

        self._root = tkinter.Tk()
        self._root.title(title)
        self._root.resizable(False, False)
        frame = ttk.Frame(self._root, padding=16)
        frame.grid()
        ttk.Label(frame, text=title, font=("TkDefaultFont", 12, "bold")).grid(sticky="w")
        self._line = ttk.Label(frame, wraplength=440, justify="left")
        self._line.grid(sticky="w", pady=(8, 8))
        self._bar = ttk.Progressbar(frame, length=440, maximum=BAR_STEPS)
        self._bar.grid(sticky="ew")
        self._numbers = ttk.Label(frame)
        self._numbers.grid(sticky="w", pady=(4, 8))
        self._button = ttk.Button(frame, command=self._press)
        self._button.grid(sticky="e")
        self._pressed = False
        self._root.protocol("WM_DELETE_WINDOW", self._press)
        self._root.bind("<Escape>", lambda _: self._press())

    def follow(self, update: _Update) -> None:
        """Shows the update until it has ended; an error stays until it was read."""
        self._pressed = False
        self._button.configure(text="Cancel")
        pace, ends = TransferRate(), None
        while update.thread.is_alive() and (ends is None or time.monotonic() < ends):
            self._draw(update, pace)
            if self._pressed and ends is None:
                update.cancelled, ends = True, time.monotonic() + LEAVE_BEHIND_SECONDS
                update.updater.start_now()
                self._button.state(["disabled"])
            self._wait()
        if update.error is not None and not update.cancelled:
            self.tell(str(update.error), "Start" if update.updater.installed_version else "Close")

    def _draw(self, update: _Update, pace: TransferRate) -> None:
        self._line.configure(
            text="Starting what is installed…" if update.cancelled else update.said
        )
        if update.total and not update.cancelled:
            self._bar.configure(value=BAR_STEPS * update.downloaded // update.total)
            self._numbers.configure(text=pace.line(update.downloaded, update.total))

    def tell(self, sentence: str, button: str) -> None:
        """Shows a sentence until the button is pressed."""
        self._pressed = False
        self._line.configure(text=sentence)
        self._bar.grid_remove()
        self._numbers.grid_remove()
        self._button.configure(text=button)
        self._button.state(["!disabled"])
        while not self._pressed:
            self._wait()

    def _press(self) -> None:
        self._pressed = True

    def _wait(self) -> None:
        """Lets the window live for a moment."""
        self._root.update()
        time.sleep(REDRAW_SECONDS)

    def close(self) -> None:
        self._root.destroy()
