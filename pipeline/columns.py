"""A modality that was added to a corpus later: a tar and a sidecar of its own beside each shard, which stays as it is.

columns/depth/column.json     what makes it: modality, config, models; a folder without one is no column
columns/depth/000012.tar      <key>.depth.png, and <key>.depth.facts.json with its facts, for any WebDataset reader
columns/depth/000012.parquet  its sidecar, a row for every sample of shard 000012 in its order; written last
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import xxhash

from omniloom.modalities import Drop, Part, load, short_name
from omniloom.pipeline.commit import Unfinished, locked, remove_dead, sync_folder, write_durably
from omniloom.pipeline.description import read_description
from omniloom.pipeline.mirror import refuse_remote
from omniloom.pipeline.shard import (
    LOCK,
    UnitReport,
    add_member,
    known,
    part_columns,
    publish_unit,
    shard_paths,
    sidecars_in,
    text_of,
)
from omniloom.pipeline.sidecar import (
    FORMAT_VERSION,
    DamagedError,
    Record,
    canonical_json,
    column_bytes,
    read_column,
    read_sidecar,
    schema_of,
)
from omniloom.pipeline.tar import TarWriter

PRESENT, ABSENT = "present", "absent"
"""Why a row has no part, though nothing was rejected: the shard has it already; the sample has none of it."""
_FORMAT = "omniloom-column"
_MADE_BY = ("modality", "suffix", "config", "models")
_REMOVED = ".removed"


class NoColumnError(ValueError):
    """There is no column of that name."""


@dataclass(frozen=True, slots=True)
class Column:
    """What makes a column, as its column.json says, and where it lies."""

    corpus: Path = field(compare=False)
    modality: str
    """Its name, or the import path of one from outside this package."""
    suffix: str
    config: Mapping[str, Any]
    """The modality's section of the recipe."""
    models: tuple[Mapping[str, Any], ...]
    """Each with its name, revision and licence, and whatever else is known of it."""

    @property
    def name(self) -> str:
        return short_name(self.modality)

    @property
    def folder(self) -> Path:
        return self.corpus / "columns" / self.name

    @property
    def revision(self) -> str:
        """Of its models, "; " between several."""
        return _joined(self.models, "revision")

    @property
    def licence(self) -> str:
        """Of its models, "; " between several; "" if unknown."""
        return _joined(self.models, "licence")

    @property
    def digest(self) -> str:
        """Hash of what makes it, 32 hex digits. Every sidecar of the column carries it."""
        return xxhash.xxh3_128_hexdigest(canonical_json([getattr(self, name) for name in _MADE_BY]))

    def description(self) -> dict[str, Any]:
        """What column.json says."""
        return {
            "format": _FORMAT,
            "version": FORMAT_VERSION,
            "modality": self.modality,
            "suffix": self.suffix,
            "config": self.config,
            "models": list(self.models),
            "revision": self.revision,
            "licence": self.licence,
        }

    def write(self) -> None:
        """Makes the column.json: from then on the column is there."""
        text = json.dumps(self.description(), indent=1, sort_keys=True) + "\n"
        write_durably(self.folder / "column.json", text.encode())

    def tar(self, unit: int) -> Path:
        return self.folder / f"{unit:06d}.tar"

    def sidecar(self, unit: int) -> Path:
        return self.folder / f"{unit:06d}.parquet"

    def committed(self) -> set[int]:
        """Ids of the units that have it: the others read as if their samples lacked it."""
        return sidecars_in(self.folder)


def open_columns(corpus: Path | str) -> Mapping[str, Column]:
    """The columns of a corpus by name, sorted. Raises `DamagedError` for a column.json that is none."""
    found: dict[str, Column] = {}
    for name in column_names(Path(corpus)):
        with suppress(NoColumnError):  # removed since its name was read
            found[name] = open_column(Path(corpus), name)
    return found


def column_names(corpus: Path) -> list[str]:
    """Names of the columns that are there, sorted; whether they can be read or not."""
    return sorted(path.parent.name for path in (corpus / "columns").glob("[!.]*/column.json"))


def open_column(corpus: Path, name: str) -> Column:
    """One column. Raises `NoColumnError` if there is none, ValueError for a later one, `DamagedError` for one that is
    not as it was written.
    """
    path = corpus / "columns" / name / "column.json"
    try:
        values = cast("dict[str, Any]", json.loads(path.read_bytes()))
        if values["format"] != _FORMAT or short_name(values["modality"]) != name:
            raise ValueError(f"it describes no column {name}")
        later = values["version"] > FORMAT_VERSION
        column = Column(corpus, values["modality"], values["suffix"], values["config"], tuple(values["models"]))
        if not later and values != column.description():
            raise ValueError("it contradicts itself")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoColumnError(
            f"{corpus} has no column {name!r}: make it with `omniloom generate {corpus} {name}`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path} is damaged ({error}): restore it, or make the column again with `omniloom generate {corpus}"
            f" {name} --replace`"
        ) from error
    if later:
        raise ValueError(f"{path} has format {values['version']}, this omniloom reads up to {FORMAT_VERSION}: upgrade")
    return column


def create_column(
    corpus: Path | str, modality: str, config: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
) -> Column:
    """Makes an empty column, or opens the one that is there if it is made the same way.

    models: of each its name, revision and licence. Raises ValueError if a column made otherwise lies there, or the
    modality's name means something else in this corpus.
    """
    refuse_remote(corpus, "generate")
    corpus = Path(corpus)
    described = read_description(corpus)
    plain = json.loads(canonical_json({"config": config, "models": list(models)}))
    column = Column(corpus, modality, load(modality).suffix, plain["config"], tuple(plain["models"]))
    if column.name in {*schema_of(()).names, "facts_json", "reason", "detail"}:
        raise ValueError(f"a column cannot be named {column.name}, every sidecar has one: rename the modality's file")
    builtin = {short_name(name): name for name in described["modalities"]}.get(column.name, modality)
    if builtin != modality:
        raise ValueError(f"{column.name} of {corpus} is {builtin}, not {modality}: ask for {builtin}, or rename yours")
    _remove_remains(corpus)
    with locked(corpus / LOCK):
        if (column.folder / "column.json").exists():
            there = open_column(corpus, column.name)
            differing = [name for name in _MADE_BY if getattr(there, name) != getattr(column, name)]
            if differing:
                raise ValueError(
                    f"{column.folder} was made with other {' and '.join(differing)}: give the same, or --replace to"
                    " remove it and begin again"
                )
            return there
        column.folder.mkdir(parents=True, exist_ok=True)
        column.write()
        sync_folder(column.folder.parent)
    return column


def write_column_unit(
    corpus: Path | str, name: str, unit: int, outcomes: Iterable[tuple[str, Part | Drop | None]]
) -> UnitReport:
    """Writes one column of a unit's samples as they come, holding one part at a time, and commits it.

    outcomes: for every key of the shard, in its order: its part, why there is none, or None where the shard has it
    already or the sample has none of it. A unit that is committed already, before or meanwhile by another process,
    stays as it is and its report is returned; in the first case `outcomes` is not touched. Interrupted at any point
    it leaves nothing that readers see. The report counts parts and drops; those of None are in neither.
    Raises OSError if the disk fails or is full, ValueError for other keys, for parts that the format cannot hold, and
    if the column is not there, or was removed or replaced meanwhile.
    """
    corpus = Path(corpus)
    column = open_column(corpus, name)
    if column.sidecar(unit).exists():
        return _report(read_column(column.sidecar(unit), ["key"])[1])
    keys, has = _samples_of(corpus, name, unit)
    module = load(column.modality)
    rows: list[dict[str, Any]] = []

    def still_the_same() -> None:
        if open_column(corpus, name) != column:
            raise ValueError(f"column {name} of {corpus} was replaced while unit {unit} was made: make the unit again")

    with ExitStack() as stack:
        tar_file, sidecar_file = (
            stack.enter_context(Unfinished(path)) for path in (column.tar(unit), column.sidecar(unit))
        )
        remove_dead(column.folder)
        tar = TarWriter(tar_file.file)
        for key, outcome in outcomes:
            at = len(rows)
            if at == len(keys) or key != keys[at]:
                raise ValueError(
                    f"sample {at} of unit {unit} is {keys[at] if at < len(keys) else 'none'}, got {key}: give an"
                    " outcome for every sample of the shard, in its order"
                )
            if has[at] and isinstance(outcome, Part):
                raise ValueError(f"{key} has a {name} in its shard, which would hide this one: give None")
            row: dict[str, Any] = {"key": key}
            if isinstance(outcome, Part):
                members = {
                    column.suffix: (name, outcome.data),
                    f"{name}.facts.json": ("facts_json", facts_json(key, name, outcome.facts)),
                }
                for suffix, (entry, data) in sorted(members.items()):
                    row[entry] = add_member(tar, f"{key}.{suffix}", data)
                row[name] |= part_columns(name, outcome, module)
            elif isinstance(outcome, Drop) and not has[at]:
                row |= {"reason": outcome.reason, "detail": text_of(outcome.detail)}
            else:
                row["reason"] = PRESENT if has[at] else ABSENT
            rows.append(row)
        if len(rows) != len(keys):
            raise ValueError(
                f"unit {unit} has {len(keys)} samples, got outcomes for {len(rows)}: give one for every sample"
            )
        made = any(name in row for row in rows)
        sha256 = tar.finish()
        record = Record(
            unit=unit,
            samples=len(rows),
            tar_size=tar.size if made else 0,
            tar_sha256=sha256 if made else "",
            dropped=dict(sorted(Counter(row["reason"] for row in rows if "reason" in row).items())),
        )
        sidecar_file.file.write(column_bytes(rows, column.modality, record, column.digest))
        for out in (tar_file, sidecar_file):
            out.finish()
        if not publish_unit(corpus, tar_file if made else column.tar(unit), [], sidecar_file, still_the_same):
            return _report(read_column(column.sidecar(unit), ["key"])[1])
    return _report(record)


def remove_column(corpus: Path | str, name: str) -> None:
    """Takes a column out of a corpus: at one instant it is all there, at the next nothing of it.

    Also one whose column.json is damaged. Raises `NoColumnError` if there is none of that name.
    """
    refuse_remote(corpus, "generate")
    corpus = Path(corpus)
    folder = corpus / "columns" / name
    if not name.isidentifier() or not (folder / "column.json").exists():
        raise NoColumnError(f"{corpus} has no column {name!r}: it has {', '.join(column_names(corpus)) or 'none'}")
    with locked(corpus / LOCK):
        folder.rename(folder.with_name(f".{name}.{secrets.token_hex(6)}{_REMOVED}"))
        sync_folder(folder.parent)
    _remove_remains(corpus)


def removed_folders(corpus: Path) -> list[Path]:
    """What interrupted removals left: no reader sees it, the next `create_column` or `remove_column` deletes it."""
    return sorted((corpus / "columns").glob(f".*{_REMOVED}"))


def facts_json(key: str, name: str, facts: Mapping[str, Any]) -> bytes:
    """The `<name>.facts.json` member: the facts of one part, as the `json` member of a shard has those of all."""
    return canonical_json({"format": FORMAT_VERSION, "key": key, "parts": {name: known(facts)}})


def _samples_of(corpus: Path, name: str, unit: int) -> tuple[list[str], list[bool]]:
    """Keys of a shard's samples in their order, and whether each has the modality there."""
    try:
        table, _ = read_sidecar(shard_paths(corpus, unit).sidecar, ["key", f"{name}.size"])
    except FileNotFoundError as error:
        raise ValueError(f"{corpus} has no committed unit {unit}: build it first") from error
    has = table[name].is_valid().to_pylist() if name in table.column_names else [False] * len(table)
    return table["key"].to_pylist(), has


def _remove_remains(corpus: Path) -> None:
    for folder in removed_folders(corpus):
        shutil.rmtree(folder, ignore_errors=True)


def _joined(models: Sequence[Mapping[str, Any]], entry: str) -> str:
    return "; ".join(dict.fromkeys(str(model[entry]) for model in models if model.get(entry)))


def _report(record: Record) -> UnitReport:
    dropped = {reason: count for reason, count in record.dropped.items() if reason not in {PRESENT, ABSENT}}
    return UnitReport(record.samples - sum(record.dropped.values()), dropped, record.tar_size)
