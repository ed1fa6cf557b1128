"""An S3-compatible server that knows who may do what: moto's, in a process of its own.

Its checks are switched on: signatures of requests must be right, and a key does what the policy of its user allows.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BUCKET = "team"
_UNCHECKED = 4
"""The first requests are not checked, or nobody could make the first key: bucket, user, policy, key."""
_READ = ["s3:GetObject", "s3:ListBucket"]


class Server(NamedTuple):
    """Where it is, and the environments of one who may do everything, of one who may read, and of a stranger."""

    url: str
    writer: dict[str, str]
    reader: dict[str, str]
    stranger: dict[str, str]
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def serve(log: Path) -> Iterator[Server]:
    """A server with an empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": str(_UNCHECKED)}
    with log.open("wb") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            _wait(port, process, log)
            yield _populate(f"http://127.0.0.1:{port}", process)
        finally:
            process.send_signal(signal.SIGKILL)  # it may be stopped


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"no answer: {log.read_text()}")


def client(kind: str, url: str, keys: dict[str, str]) -> Any:
    """A client of boto3, such as `s3`."""
    import boto3

    key, secret = keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]
    session = boto3.Session(aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1")
    return session.client(kind, endpoint_url=url)  # type: ignore[call-overload]


def _populate(url: str, process: subprocess.Popen[bytes]) -> Server:
    stranger = {"AWS_ACCESS_KEY_ID": "AKIASTRANGER", "AWS_SECRET_ACCESS_KEY": "unknown"}
    client("s3", url, stranger).create_bucket(Bucket=BUCKET)
    writer = _user(url, stranger, "writer", ["*"])
    return Server(url, writer, _user(url, writer, "reader", _READ), stranger, process)


def _user(url: str, keys: dict[str, str], name: str, actions: list[str]) -> dict[str, str]:
    """The keys of a new user who may do that much in the bucket."""
    iam = client("iam", url, keys)
    resources = ["*"] if actions == ["*"] else [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resources}]}
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
    made = iam.create_access_key(UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}
