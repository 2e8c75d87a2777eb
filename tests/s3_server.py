"""A real S3 server for tests: moto's, as a process on loopback. Nothing that it holds survives its kill."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx

from history.store_options import StoreOptions
from tests.servers import poll_until

START_DEADLINE_S = 60


class S3Server:
    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *buckets: str) -> None:
        """Started, with these buckets, empty."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        poll_until(self._answers, START_DEADLINE_S)
        for bucket in buckets:
            httpx.put(f"{self.url}/{bucket}", trust_env=False).raise_for_status()

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def objects(self, bucket: str) -> list[str]:
        answer = httpx.get(f"{self.url}/{bucket}?list-type=2", trust_env=False).text
        return sorted(part.split("</Key>")[0] for part in answer.split("<Key>")[1:])

    def options(self, url: str, **more: Any) -> StoreOptions:
        keys = {"access_key_id": "test", "secret_access_key": "test"}
        return StoreOptions(url, endpoint=self.url, **{**keys, **more})

    def _answers(self) -> bool:
        assert self._process and self._process.poll() is None, "moto's server ended"
        try:
            return httpx.get(f"{self.url}/moto-api/", trust_env=False).status_code < 500
        except httpx.TransportError:
            return False


def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    yield server
    server.kill()
