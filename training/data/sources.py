"""The public sets that `data fetch` knows, from `sources.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.settings import load_settings

SOURCES = Path(__file__).resolve().parent / "sources.yaml"


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Closed):
    """A file to download."""

    url: str = Field(pattern=r"^https://")
    file: str = Field(pattern=r"^[\w.-]+$", description="its name in the cache, and below a mirror")
    commit: str = Field("", pattern=r"^([0-9a-f]{7,40})?$", description="of the source's repository")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="only where it was measured")


class PublicSet(_Closed):
    """A data set made from archives."""

    what: str
    cite: str
    licence: str
    archives: tuple[str, ...] = Field(min_length=1)


class Sources(_Closed):
    """All of them."""

    archives: dict[str, Archive]
    sets: dict[str, PublicSet]

    @model_validator(mode="after")
    def _named_archives_are_there(self) -> Sources:
        for name, entry in self.sets.items():
            if unknown := set(entry.archives) - set(self.archives):
                raise ValueError(f"{name} names the archive {min(unknown)}, which is not there")
        return self


def load_sources(path: Path = SOURCES) -> Sources:
    """Read and check the list.

    Raises:
        ConfigError: damaged.
    """
    return load_settings(path, Sources)
