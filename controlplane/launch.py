"""Becomes another program that dies with its parent: `python -I -S launch.py PARENT_PID PROGRAM ARGUMENT...`.

Run by path; `launched` says how. The kernel kills the program when the process that started it ends, however it ends, so that a
killed supervisor leaves nothing behind. (Setting this between fork and exec in that process itself is unsafe beside threads.)
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def launched(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command, run so that it dies with this process."""
    return (sys.executable, "-I", "-S", __file__, str(os.getpid()), *command)


def die_with(parent: int) -> bool:
    """Have the kernel kill this process when `parent` ends, whose child it must be; False when that has happened already."""
    if sys.platform != "linux":
        return True
    import ctypes  # noqa: PLC0415 - only Linux has prctl

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def main(arguments: list[str]) -> None:
    """Ask the kernel for the signal, make sure the parent still lives, become the program."""
    parent, program = int(arguments[1]), arguments[2:]
    for number in signal.valid_signals():  # what our caller ignores (a shell's `&`, nohup, Python itself) is not the program's business
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if not die_with(parent):
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv)
