"""Images by their SHA-256: a folder by default, GCS or S3 by address."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import uuid
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cloud.errors import ConfigurationError, StorageUnavailable

_SHA256 = re.compile(r"^[0-9a-f]{64}$")


class ImageStore:
    """Content-addressed bytes. Written whole or not at all; the same bytes again are no write.

    Args:
        url: an fsspec address, e.g. `file:///var/lib/ahs/images` or `gs://bucket/images`.

    Raises:
        ConfigurationError: an address that fsspec cannot open.
    """

    def __init__(self, url: str) -> None:
        try:
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as exc:
            raise ConfigurationError(f"images.url {url!r} cannot be opened: {exc}") from exc
        self._is_local = isinstance(self._files, LocalFileSystem)

    async def put(self, data: bytes) -> str:
        """Stores bytes durably and returns their SHA-256; StorageUnavailable when that cannot be done."""
        try:
            return await asyncio.to_thread(self._put, data)
        except OSError as exc:
            raise StorageUnavailable(f"the image store does not take the image: {exc}") from exc

    async def get(self, sha256: str) -> bytes:
        """The bytes; StorageUnavailable when they are gone or are not what their name says.

        Never call it with a hash that was not looked up under the asker's site first.
        """
        try:
            data = await asyncio.to_thread(self._files.cat_file, self._path(sha256))
        except OSError as exc:
            raise StorageUnavailable(f"image {sha256} cannot be read: {exc}") from exc
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StorageUnavailable(f"image {sha256} is damaged in the store")
        return bytes(data)

    async def get_range(self, sha256: str, *, start_byte: int, size_bytes: int) -> bytes:
        """Part of what is stored; StorageUnavailable when it is gone. What it is must be checked by the caller."""
        try:
            data = await asyncio.to_thread(
                self._files.cat_file, self._path(sha256), start=start_byte, end=start_byte + size_bytes
            )
        except OSError as exc:
            raise StorageUnavailable(f"{sha256} cannot be read: {exc}") from exc
        return bytes(data)

    async def holds(self, sha256: str) -> bool:
        """Whether something is stored under this hash; StorageUnavailable when that cannot be said."""
        try:
            return bool(await asyncio.to_thread(self._files.exists, self._path(sha256)))
        except OSError as exc:
            raise StorageUnavailable(f"the image store does not answer: {exc}") from exc

    async def ping(self) -> None:
        """Proves that the store can be written to; StorageUnavailable otherwise."""
        try:
            await asyncio.to_thread(self._files.makedirs, self._root, exist_ok=True)
            if self._is_local and not os.access(self._root, os.W_OK):
                raise PermissionError(f"{self._root} cannot be written to")
        except OSError as exc:
            raise StorageUnavailable(f"the image store does not answer: {exc}") from exc

    def _put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        if self._files.exists(path) and self._files.size(path) == len(data):
            return sha256
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if not self._is_local:
            # An object store shows an object only when it is complete.
            self._files.pipe_file(path, data)
            return sha256
        part = f"{path}.{uuid.uuid4().hex}.part"
        with self._files.open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)  # noqa: PTH105 (fsspec speaks in strings)
        folder = os.open(path.rsplit("/", 1)[0], os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return sha256

    def _path(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is not a SHA-256")
        return f"{self._root}/{sha256[:2]}/{sha256[2:4]}/{sha256}"
