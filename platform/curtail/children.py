"""Start a child process that cannot outlive us, optionally without root's identity.

The child gets a session of its own, so that the terminal's Ctrl-C reaches only the parent, which then shuts
its children down in order. On Linux the kernel signals the child when the parent's starting thread ends
(PR_SET_PDEATHSIG), so a parent that is killed with SIGKILL leaves nothing running: start children from a
thread that lives as long as they should.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# linux/prctl.h, linux/securebits.h and linux/capability.h
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
if _LIBC is not None:
    _LIBC.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """The user and group that a child runs as."""

    uid: int
    gid: int


def spawn(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    identity: Identity | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a session of its own, its output appended to ``log``.

    Args:
        argv: program and arguments.
        log: file for standard output and error; created when missing.
        env: the whole environment of the child; None hands on ours.
        cwd: working directory; None keeps ours.
        death_signal: what the child gets when we die first (Linux only).
        identity: run as this user instead of root; file access stays root's.

    Raises:
        OSError: if the log cannot be opened or the program cannot be started.
    """
    with log.open("ab") as output:
        try:
            return subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_preparation(death_signal, identity),
            )
        except subprocess.SubprocessError:
            # All that Python tells of a preparation that failed; changing the user is what can.
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(argv[0])) from None


def _preparation(death_signal: signal.Signals, identity: Identity | None) -> Callable[[], None]:
    parent = os.getpid()

    def prepare() -> None:
        if identity is not None:
            _become(identity)
        if _LIBC is not None:
            # After the change of user, which clears it.
            _LIBC.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def _become(identity: Identity) -> None:
    """Change from root to another user, keeping only root's access to files.

    PostgreSQL refuses to run with effective user 0, and another user could not pass through a checkout in
    /root (mode 700). The ambient capability lets it, without touching anybody's permissions.
    """
    if _LIBC is not None:
        # Without the fix-up, access(2) honours the capability for a real user other than root.
        _LIBC.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(identity.gid)
    os.setuid(identity.uid)
    if _LIBC is None:
        return
    mask = 1 << CAP_DAC_OVERRIDE
    header = _CapHeader(CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)(_CapData(mask, mask, mask), _CapData(0, 0, 0))
    if _LIBC.capset(ctypes.byref(header), data) == 0:
        _LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def stop_group(process: subprocess.Popen[bytes], *, first: signal.Signals, grace_s: float) -> bool:
    """Ask the child to end, kill its group after ``grace_s`` seconds; return whether it obeyed."""
    if process.poll() is None:
        process.send_signal(first)
    obeyed = True
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        obeyed = False
    # Also after a clean end: what the child started itself shares its group and must not stay.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return obeyed


def how_it_ended(code: int) -> str:
    """A return code in words: ``status 1`` or ``signal SIGKILL``."""
    return f"status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def tail(log: Path, lines: int = 5) -> str:
    """Return the last non-empty lines of a log, joined by `` | ``; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    kept = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(kept[-lines:])
