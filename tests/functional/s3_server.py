"""A real S3-compatible server for tests, where one is installed (`pip install 'moto[server]'`, in any environment); else a skip."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from controlplane.audit.aws_signature import S3Access, signed_headers
from tests.ports import free_port

ACCESS_KEY, SECRET_KEY, BUCKET = "AKIDEXAMPLE", "secret-example", "records"


@pytest.fixture(scope="session")
def s3_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables with which the server and its bucket are reached."""
    program = shutil.which("moto_server")
    if program is None:
        pytest.skip("no moto_server here (pip install 'moto[server]'): tests of S3 were not run")
    port = free_port()
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
    environ = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
    }  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}/moto-api/", process)
        _make_bucket(f"http://127.0.0.1:{port}/{BUCKET}")
        yield environ
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < give_up_at:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    pytest.fail("the S3 server did not start")


def _make_bucket(url: str) -> None:
    access = S3Access(access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY)
    headers = signed_headers(access, "PUT", url, b"", {}, datetime.now(UTC))
    headers.pop("host")
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=30).close()
