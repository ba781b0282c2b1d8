"""Signs HTTP requests for S3 and what speaks like it (AWS Signature Version 4). Credentials come from the usual variables."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from extauthz.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """Who asks, and where. `endpoint_url` is empty for Amazon's own."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    region: str = "us-east-1"
    endpoint_url: str = ""

    def object_url(self, bucket: str, key: str) -> str:
        """The address of an object: in the path at an endpoint of its own, by the bucket's name at Amazon's."""
        path = quote(key, safe="/-_.~")
        if self.endpoint_url:
            return f"{self.endpoint_url.rstrip('/')}/{bucket}/{path}"
        return f"https://{bucket}.s3.{self.region}.amazonaws.com/{path}"


def read_s3_access(environ: Mapping[str, str]) -> S3Access:
    """AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL_S3. Raises `ConfigurationError`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        if not environ.get(name):
            raise ConfigurationError(f"{name} is not set: an s3:// address needs credentials")
    return S3Access(
        access_key_id=environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        session_token=environ.get("AWS_SESSION_TOKEN", ""),
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        endpoint_url=environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or "",
    )


def signed_headers(
    access: S3Access, method: str, url: str, body: bytes, headers: Mapping[str, str], now: datetime | None = None
) -> dict[str, str]:
    """`headers` and those that sign the request. `url` must be escaped already and have no query."""
    parts = urlsplit(url)
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{access.region}/s3/aws4_request"
    sent = {name.lower(): value for name, value in headers.items()}
    sent |= {"host": parts.netloc, "x-amz-date": stamp, "x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
    if access.session_token:
        sent["x-amz-security-token"] = access.session_token
    names = ";".join(sorted(sent))
    lines = "".join(f"{name}:{' '.join(sent[name].split())}\n" for name in sorted(sent))
    canonical = f"{method}\n{parts.path or '/'}\n\n{lines}\n{names}\n{sent['x-amz-content-sha256']}"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{access.secret_access_key}".encode()
    for part in (stamp[:8], access.region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"Credential={access.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return sent | {"authorization": f"AWS4-HMAC-SHA256 {credential}"}
