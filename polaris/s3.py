"""Keys and bytes in, objects in a bucket out: the `s3://` store, through boto3."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from polaris.config import StoreConfig
from polaris.errors import ConfigError, TransientError
from polaris.storage import CHUNK, Conflict, NotFound, ObjectInfo, Tick, arriving, checked, checked_prefix


class S3Store:
    """A bucket, or a prefix in one, of any store that speaks S3 with conditional puts."""

    def __init__(self, config: StoreConfig) -> None:
        self.bucket, _, prefix = config.url.removeprefix("s3://").partition("/")
        if not self.bucket:
            raise ConfigError(f"store.url: '{config.url}' names no bucket; write s3://bucket/prefix")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = config.url.rstrip("/")
        self._config = config
        self._client_: Any = None

    @property
    def _client(self) -> Any:
        if self._client_ is None:
            import boto3
            from botocore.config import Config

            # A session of its own: the default one keeps the first credentials that it ever found.
            self._client_ = boto3.session.Session().client(
                "s3",
                endpoint_url=self._config.endpoint,
                region_name=self._config.region,
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": self._config.retries},
                    s3={"addressing_style": "path" if self._config.path_style else "auto"},
                    request_checksum_calculation=self._config.checksum,
                    response_checksum_validation=self._config.checksum,
                    max_pool_connections=max(16, 2 * self._config.parallel),
                    connect_timeout=10,
                    read_timeout=60,
                ),
            )
        return self._client_

    def get(self, key: str) -> bytes:
        """Return a whole small object; a body that breaks off is asked for again."""
        for tries_left in reversed(range(self._config.retries)):
            body = self._body(key)
            try:
                with self._errors(key):
                    return bytes(body.read())
            except TransientError:
                if not tries_left:
                    raise
        raise AssertionError("unreachable: retries is at least 1")

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object in chunks."""
        body = self._body(key)
        with self._errors(key):
            yield from body.iter_chunks(CHUNK)

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write a small object."""
        condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
        place = {"Bucket": self.bucket, "Key": self._key(key)}
        try:
            with self._errors(key):
                return str(self._client.put_object(Body=data, **place, **condition)["ETag"])
        except NotFound:
            # Stores differ in what a vanished object answers to If-Match.
            raise Conflict(key) from None

    def upload(self, path: Path, key: str, *, progress: Tick | None = None) -> None:
        """Send a file in parallel parts."""
        with self._errors(key):
            how = {"Config": self._transfer(), "Callback": progress}
            self._client.upload_file(str(path), self.bucket, self._key(key), **how)

    def download(self, key: str, path: Path, *, progress: Tick | None = None) -> None:
        """Fetch an object in parallel parts."""
        with self._errors(key), arriving(path) as part:
            how = {"Config": self._transfer(), "Callback": progress}
            self._client.download_file(self.bucket, self._key(key), str(part), **how)

    def head(self, key: str) -> ObjectInfo | None:
        """Return an object's facts."""
        try:
            with self._errors(key):
                answer = self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        except NotFound:
            return None
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Page through the keys below the prefix."""
        checked_prefix(prefix)
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for found in page.get("Contents", []):
                    yield ObjectInfo(found["Key"][len(self.prefix) :], found["Size"], found["ETag"])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand a request."""
        waiting = [self._key(key) for key in keys]
        for start in range(0, len(waiting), 1000):
            batch = [{"Key": key} for key in waiting[start : start + 1000]]
            with self._errors(batch[0]["Key"]):
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch})
            for failed in answer.get("Errors", []):
                denied = ConfigError if failed.get("Code") == "AccessDenied" else TransientError
                raise denied(f"store.url: {self.url} keeps '{failed['Key']}': {failed.get('Message')}")

    def _key(self, key: str) -> str:
        return self.prefix + checked(key)

    def _body(self, key: str) -> Any:
        with self._errors(key):
            return self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"]

    def _transfer(self) -> Any:
        from boto3.s3.transfer import TransferConfig

        part = self._config.part_mib << 20
        sizes: dict[str, Any] = {"multipart_threshold": part, "multipart_chunksize": part}
        return TransferConfig(max_concurrency=self._config.parallel, **sizes)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Translate boto3's errors into ours, which say what to change."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions as theirs

        where = f"{self.url} at {self._config.endpoint or 'AWS'}"
        try:
            yield
        except theirs.ClientError as error:
            raise self._translated(error, key, where) from error
        except (theirs.NoCredentialsError, theirs.PartialCredentialsError) as error:
            raise ConfigError(
                f"store.url: no credentials for {where}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                " or give the pod an identity"
            ) from error
        except (theirs.BotoCoreError, Boto3Error) as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, theirs.ClientError):
                raise self._translated(cause, key, where) from error
            raise TransientError(f"store.url: {where} does not answer: {error}") from error

    def _translated(self, error: Any, key: str, where: str) -> Exception:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = error.response.get("Error", {}).get("Code", "")
        passing = TransientError(f"store.url: {where} answered {status} {code} for '{key}'")
        if code in ("NoSuchUpload", "RequestTimeout"):
            return passing
        if code == "NoSuchBucket":
            return ConfigError(f"store.url: {where} has no bucket '{self.bucket}'; create it or name another")
        if status == 404:
            return NotFound(key)
        if status in (409, 412):
            return Conflict(key)
        if status in (301, 400, 401, 403):
            return ConfigError(
                f"store.url: {where} refuses '{key}' ({code}); check AWS_ACCESS_KEY_ID,"
                " AWS_SECRET_ACCESS_KEY, store.region and the bucket's policy"
            )
        return passing
