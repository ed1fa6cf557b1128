"""A seccomp filter that lets a process compute, read what it can see, and nothing else.

Every system call that is not listed fails with EPERM: processes and threads, sockets, signals to others, new programs,
mounts, tracing, keys, timers. The filter cannot be taken off again, and needs no privilege. Imported in workers that
see no installed package: the standard library alone.
"""

import ctypes
import os
import platform
import struct

_X86_64 = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "access": 21, "sched_yield": 24, "mremap": 25, "madvise": 28, "exit": 60, "uname": 63, "getcwd": 79,
    "readlink": 89, "gettimeofday": 96, "getrusage": 98, "sigaltstack": 131, "futex": 202, "sched_getaffinity": 204,
    "getdents64": 217, "restart_syscall": 219, "clock_gettime": 228, "exit_group": 231, "openat": 257,
    "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "statx": 332, "faccessat2": 439,
}  # fmt: skip
_AARCH64 = {
    "getcwd": 17, "faccessat": 48, "openat": 56, "close": 57, "getdents64": 61, "lseek": 62, "read": 63, "write": 64,
    "pread64": 67, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98,
    "clock_gettime": 113, "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132,
    "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "uname": 160, "getrusage": 165,
    "gettimeofday": 169, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233,
    "statx": 291, "faccessat2": 439,
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
"""Machine -> what the kernel calls it in a filter (AUDIT_ARCH_*), and the numbers of the calls that are allowed."""

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
"""BPF: load a word of the call's description, compare it with a constant, end."""
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # EPERM
_NUMBER_AT, _MACHINE_AT = 0, 4
PR_SET_SECCOMP, _FILTER = 22, 2
PR_SET_NO_NEW_PRIVS = 38


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class Filter:
    """The filter for this machine, built once; `apply` puts it on the calling process.

    Raises OSError on a machine whose calls we do not know.
    """

    def __init__(self) -> None:
        if platform.machine() not in _MACHINES or struct.calcsize("P") != 8:
            raise OSError(f"seccomp: no list of system calls for {platform.machine()}")
        code = _instructions(*_MACHINES[platform.machine()])
        self.code = ctypes.create_string_buffer(code, len(code))
        self.program = _Program(len(code) // 8, ctypes.addressof(self.code))
        self.libc = ctypes.CDLL(None, use_errno=True)

    def apply(self) -> None:
        """From here on, this process can make only the listed calls, and gains no privilege by any program."""
        checked(self.libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        checked(self.libc.prctl(PR_SET_SECCOMP, _FILTER, ctypes.byref(self.program), 0, 0), "seccomp")


def checked(result: int, what: str) -> None:
    """Raises OSError that names the call if it failed."""
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _instructions(machine: int, calls: dict[str, int]) -> bytes:
    """Another machine's call is killed: its numbers mean something else (32-bit calls on a 64-bit kernel)."""
    lines = [(_LOAD, 0, 0, _MACHINE_AT), (_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER_AT)]
    for number in calls.values():
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    lines.append((_RETURN, 0, 0, _FAIL))
    return b"".join(struct.pack("HBBI", *line) for line in lines)
