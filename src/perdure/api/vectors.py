"""Vectors of users from elsewhere ([profile] vectors): a run keeps a copy of what it read beside its model, so that the
model can be asked again wherever it stands, and whatever became of the source.                    [reads, writes]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.errors import DataError
from perdure.model.disk import DISK, machine_faults
from perdure.model.files import write_file

if TYPE_CHECKING:
    from perdure.settings import Settings

__all__ = ["COPY", "found", "keep"]

COPY = "user-vectors.parquet"  # in the folder of a run


def keep(settings: Settings, folder: Path) -> Settings:
    """The same settings, reading the copy in `folder`; that of a run which began there stands.

    Raises:
        DataError: the source cannot be read. MachineError: the copy cannot be written.
    """
    source, copy = settings.profile.vectors, folder / COPY
    if source is None:
        return settings
    if not (copy.is_file() and (folder / "run.json").is_file()):
        try:
            data = DISK.read(Path(source))
        except OSError as fault:
            found = f"vectors cannot be read: {fault.strerror or fault}"
            raise DataError(found, expected="a Parquet file", where=source) from None
        with machine_faults(copy):
            DISK.make_folder(folder)
        write_file(copy, data)
    return _reading(settings, copy)


def found(settings: Settings, folders: Sequence[Path]) -> Settings:
    """The settings of a model, reading the copy that stands in one of the folders.

    Raises:
        DataError: there is none.
    """
    if settings.profile.vectors is None:
        return settings
    copy = next((folder / COPY for folder in folders if (folder / COPY).is_file()), None)
    if copy is None:
        raise DataError(
            "the vectors of users that [profile] names are not beside the model",
            expected=f"{COPY} in {' or '.join(map(str, folders))}",
            fix="copy it from the folder of the run",
        )
    return _reading(settings, copy)


def _reading(settings: Settings, path: Path) -> Settings:
    return dataclasses.replace(settings, profile=settings.profile.model_copy(update={"vectors": str(path.absolute())}))
