"""The update record on the disk."""

from __future__ import annotations

from pathlib import Path

import structlog
from pydantic import ValidationError

from edge_agent.errors import StoreFault
from edge_agent.update.files import write_durably
from edge_agent.update.record import UpdateRecord

NAME = "record.json"
SET_ASIDE = "record.damaged.json"

log = structlog.get_logger()


class RecordFile:
    """See the module.

    Args:
        folder: of the update; made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def load(self) -> UpdateRecord | None:
        """As it was saved; None without one, or when it cannot be read: then it is set aside for a person to look at.

        Raises:
            StoreFault: the disk does not answer.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StoreFault(f"{self._path} cannot be read: {exc.strerror}; check the disk") from exc
        try:
            return UpdateRecord.model_validate_json(data)
        except ValidationError as exc:
            log.error("update_record_damaged", error=str(exc.errors(include_input=False)[:1]))
            aside = self._path.with_name(SET_ASIDE)
            try:
                self._path.replace(aside)
            except OSError as fault:
                raise StoreFault(f"{self._path} cannot be set aside: {fault.strerror}; check the disk") from fault
            return None

    def save(self, record: UpdateRecord) -> None:
        """Durable when it returns.

        Raises:
            StoreFault: it is not saved.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._path, record.model_dump_json(by_alias=True).encode())
        except OSError as exc:
            raise StoreFault(f"{self._path} cannot be written: {exc.strerror}; free some disk space") from exc
