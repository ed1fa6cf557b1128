"""Shuts the calling process into namespaces of its own, where it sees a few directories, read-only, and nothing else.

User, mount, process, network, IPC, host-name and control-group namespaces; a new root that holds the directories and
is read-only itself; no capabilities, none to be gained, no `/proc`, `/dev` or `/tmp`. Started by root, it goes on as
nobody where there is one. Needs Linux and a kernel that lets this user make user namespaces. The standard library
alone: it runs in workers that see no installed package.
"""

import ctypes
import os
import platform
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from builders.checkers.seccomp import PR_SET_NO_NEW_PRIVS, checked

_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""CLONE_NEW: NS, CGROUP, UTS, IPC, USER, PID, NET."""
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_SEALED = _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV
_KEPT = {os.ST_NOEXEC: _NOEXEC, os.ST_NOATIME: 1024, os.ST_NODIRATIME: 2048, os.ST_RELATIME: 1 << 21}
"""What a mount has and must keep when it is bound elsewhere."""
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_NOBODY = 65534
_MAPPED, _WITH_NOBODY, _UNMAPPED = 0, 3, 1
_CAPABILITIES_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def isolate(library: Sequence[str], packages: Sequence[str]) -> None:
    """Returns in a new process that sees only these directories: Python's library, and some installed packages.

    What else is installed in a folder of the library is hidden.

    The calling process waits for it and ends as it does; who kills the one, kills the other. It must have no threads.

    Raises OSError, which names the step that this machine refuses.
    """
    nobody = _unshare()
    child = os.fork()
    if child:
        _end_like(child)
    _new_root(library, packages)
    _drop_privileges(nobody)
    checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent-death signal")


def _end_like(child: int) -> NoReturn:
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _unshare() -> bool:
    """A process outside writes who we are inside. Returns whether we may become nobody there, which root may."""
    ready, go = os.pipe()
    target, user, group = os.getpid(), os.getuid(), os.getgid()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        os._exit(_map_users(target, user, group) if os.read(ready, 1) else _UNMAPPED)
    os.close(ready)
    checked(_libc.unshare(_NAMESPACES), "unshare")
    os.write(go, b"1")
    os.close(go)
    mapped = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if mapped not in (_MAPPED, _WITH_NOBODY):
        raise OSError("user namespace: its users cannot be mapped")
    return mapped == _WITH_NOBODY


def _map_users(process: int, user: int, group: int) -> int:
    """A user that is root in a namespace alone has no second user to map."""
    try:
        if user == 0:
            with suppress(OSError):
                _write(f"/proc/{process}/gid_map", f"0 {group} 1\n1 {_NOBODY} 1")
                _write(f"/proc/{process}/uid_map", f"0 {user} 1\n1 {_NOBODY} 1")
                return _WITH_NOBODY
        _write(f"/proc/{process}/setgroups", "deny")
        _write(f"/proc/{process}/gid_map", f"0 {group} 1")
        _write(f"/proc/{process}/uid_map", f"0 {user} 1")
    except OSError:
        return _UNMAPPED
    return _MAPPED


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    given = [text and text.encode() for text in (source, target, kind)]
    result = _libc.mount(*given, ctypes.c_ulong(flags), options and options.encode())
    checked(result, f"mount of {kind or source or 'flags'} on {target}")


def _empty(target: str) -> None:
    _mount("tmpfs", target, "tmpfs", _NOSUID | _NODEV | _NOEXEC, "size=256k,nr_inodes=1024,mode=755")


def _bind(path: str, target: str) -> None:
    """Shows a directory there too, read-only."""
    Path(target).mkdir(parents=True, exist_ok=True)
    _mount(path, target, None, _BIND)
    flags = os.statvfs(target).f_flag
    kept = sum(mount for flag, mount in _KEPT.items() if flags & flag)
    _mount(None, target, None, _SEALED | kept)


def _new_root(library: Sequence[str], packages: Sequence[str]) -> None:
    _mount(None, "/", None, _REC | _PRIVATE)
    ours = (*library, *packages)
    root = next(place for place in ("/proc", "/sys", "/mnt") if not any(path.startswith(place + "/") for path in ours))
    _empty(root)
    for path in library:
        _bind(path, root + path)
    hidden = [f"{root}{path}/{name}" for path in library for name in ("site-packages", "dist-packages")]
    hidden = [path for path in hidden if Path(path).is_dir()]
    for path in hidden:
        _empty(path)
    for path in packages:
        _bind(path, root + path)
    for path in hidden:
        _mount(None, path, None, _SEALED | _NOEXEC)
    os.chdir(root)
    checked(_libc.syscall(_PIVOT_ROOT[platform.machine()], b".", b"."), "pivot_root")
    checked(_libc.umount2(b".", _DETACH), "umount of the old root")
    os.chdir("/")
    _mount(None, "/", None, _SEALED | _NOEXEC)


def _drop_privileges(nobody: bool) -> None:
    """Capabilities end with root's user, or are given up; no program could give them back."""
    for capability in range(64):
        with suppress(OSError):
            checked(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "capability")
    if nobody:
        os.setgroups([])
        os.setresgid(1, 1, 1)
        os.setresuid(1, 1, 1)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    checked(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")
    checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
