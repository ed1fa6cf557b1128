"""An SSH server with SFTP in a process of its own: asyncssh's. `writer` may do everything, `reader` may only read.

Who logs in is decided by keys. Each user has a home directory with `.ssh/config` and a key, as people have them.
`python -m tests.ssh_server ROOT KEYS PAUSE_S` serves ROOT as `/`, says its port, and waits PAUSE_S per read and write.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import asyncssh

from tests.conftest import REPOSITORY

USERS = ("writer", "reader", "stranger")
_CONFIG = """Host team
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {key}
"""


class Server(NamedTuple):
    """The directory that is served, and the environments of those who log in; `stranger`'s key is not known there."""

    root: Path
    writer: dict[str, str]
    reader: dict[str, str]
    stranger: dict[str, str]
    process: subprocess.Popen[str]


@contextlib.contextmanager
def serve(directory: Path, pause_s: float = 0.0) -> Iterator[Server]:
    """A server for files below `directory / "served"`."""
    (root := directory / "served").mkdir(parents=True, exist_ok=True)
    homes = {user: _home(directory / user) for user in USERS}
    (keys := directory / "keys").mkdir(exist_ok=True)
    for user in ("writer", "reader"):
        shutil.copy(homes[user] / ".ssh/key.pub", keys / user)
    command = [sys.executable, "-m", "tests.ssh_server", str(root), str(keys), str(pause_s)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for user, home in homes.items():
            (home / ".ssh/config").write_text(_CONFIG.format(port=port, user=user, key=home / ".ssh/key"))
        writer, reader, stranger = ({"HOME": str(home), "SSH_AUTH_SOCK": ""} for home in homes.values())
        try:
            yield Server(root, writer, reader, stranger, process)
        finally:
            process.kill()


def _home(home: Path) -> Path:
    if not (home / ".ssh/key").exists():
        (home / ".ssh").mkdir(parents=True)
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(home / ".ssh/key"))
        key.write_public_key(str(home / ".ssh/key.pub"))
    return home


class Files(asyncssh.SFTPServer):
    """The files below a directory."""

    def __init__(self, root: str, pause_s: float, channel: asyncssh.SSHServerChannel):
        super().__init__(channel, chroot=os.fsencode(root))
        self.may_write, self.pause_s = channel.get_extra_info("username") == "writer", pause_s

    def _refuse(self, path: bytes) -> None:
        if not self.may_write:
            raise asyncssh.SFTPPermissionDenied(f"{os.fsdecode(path)}: read-only")

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        if pflags != asyncssh.FXF_READ:
            self._refuse(path)
        return super().open(path, pflags, attrs)

    def write(self, file_obj: object, offset: int, data: bytes) -> Any:
        time.sleep(self.pause_s)
        return super().write(file_obj, offset, data)

    def read(self, file_obj: object, offset: int, size: int) -> Any:
        time.sleep(self.pause_s)
        return super().read(file_obj, offset, size)

    def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        self._refuse(path)
        return super().mkdir(path, attrs)

    def remove(self, path: bytes) -> Any:
        self._refuse(path)
        return super().remove(path)


class Users(asyncssh.SSHServer):
    """Who may log in: those whose public key lies in a directory under their name."""

    def __init__(self, keys: Path):
        self.keys = keys

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        known = self.keys / username
        return known.exists() and asyncssh.read_public_key(known).public_data == key.public_data


async def _serve(root: str, keys: str, pause_s: str) -> None:
    server = await asyncssh.create_server(
        partial(Users, Path(keys)), "127.0.0.1", 0, server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        sftp_factory=partial(Files, root, float(pause_s)),
    )  # fmt: skip
    print(server.get_port(), flush=True)
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
