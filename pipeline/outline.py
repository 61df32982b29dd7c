"""Single fields of every sidecar, as a plan needs them, kept on this machine for the next run that asks for them.

To open a Parquet file and to find a column in it costs a millisecond or two, whatever lies in it: minutes for the
hundred thousand sidecars of ten million samples. Fields of many units are therefore kept together, in files that are
named by the seals of the sidecars that they were read from: what is kept is right, or has another name.

    <cache>/plans/<xx>/<hash of field and seals>.parquet
"""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import xxhash

from omniloom.pipeline.cache import cache_folder
from omniloom.pipeline.corpus import Corpus
from omniloom.pipeline.sidecar import read_sealed, sealed_bytes

_FEW = 512
"""Up to so many units are simply read."""
_TOGETHER = 512
"""Units whose fields are kept in one file."""
_VERSION = 1
_UNUSED_S = 30 * 24 * 3600
"""After which a file is removed."""


class Outline:
    """Fields of all samples of a corpus, in the order of its units."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._folder = cache_folder() / "plans"
        self._works = True

    def read(self, fields: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        """By field, as "split" or "frames.size", what all sidecars say. Raises as `Corpus.fields`, KeyError too."""
        units = self._corpus.units
        if len(units) <= _FEW:
            return _split(self._corpus.fields(fields), fields)
        seals = self._corpus.seals([field.partition(".")[0] for field in fields])
        blocks = [
            self._block(fields, units[first : first + _TOGETHER], seals[first : first + _TOGETHER])
            for first in range(0, len(units), _TOGETHER)
        ]
        return {field: pa.chunked_array([block[field] for block in blocks]) for field in fields}

    def _block(self, fields: Sequence[str], units: Sequence[int], seals: Sequence[str]) -> dict[str, pa.Array]:
        """Of some units: what is kept is taken from there, the rest is read from each sidecar in one go."""
        sealed = "".join(seals)
        paths = {field: self._path(f"{_VERSION} {field} {sealed}") for field in fields}
        found = {field: array for field, path in paths.items() if (array := _kept(path)) is not None}
        missing = [field for field in fields if field not in found]
        if missing:
            for field, column in _split(self._corpus.fields(missing, units), missing).items():
                found[field] = column.combine_chunks()
                self._keep(paths[field], found[field])
        return found

    def _path(self, what: str) -> Path:
        name = xxhash.xxh3_128_hexdigest(what.encode())
        return self._folder / name[:2] / f"{name}.parquet"

    def _keep(self, path: Path, array: pa.Array) -> None:
        if not self._works:
            return
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in path.parent.iterdir():
                if time.time() - old.stat().st_mtime > _UNUSED_S:
                    old.unlink(missing_ok=True)
            try:
                part.write_bytes(sealed_bytes(pa.table({"field": array}), {"format": _VERSION}))
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            self._works = False
            warnings.warn(f"{self._folder} keeps nothing, each start reads all: {error}", RuntimeWarning, stacklevel=2)


def _kept(path: Path) -> pa.Array | None:
    try:
        if time.time() - path.stat().st_mtime > _UNUSED_S / 2:
            path.touch()
        return read_sealed(path, None)[0]["field"].combine_chunks()
    except (OSError, ValueError):  # never kept, removed, or damaged: the sidecars have it
        return None


def _split(table: pa.Table, fields: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Each field by its own name. Raises KeyError for one that is not there."""
    import pyarrow.compute

    found: dict[str, pa.ChunkedArray] = {}
    for field in fields:
        name, _, inner = field.partition(".")
        found[field] = pyarrow.compute.struct_field(table[name], inner) if inner else table[name]  # pyright: ignore
    return found
