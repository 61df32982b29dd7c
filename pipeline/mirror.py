"""A corpus that lies elsewhere, as a folder here: its small files are copied, its tars stay there to be read in ranges.

<cache>/corpora/<name>-<hash of the URL>/   corpus.json, sidecars and so on, as they lie there
    .origin.json                            where they came from, what was copied, which tars are there; written last
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from omniloom.pipeline.cache import cache_folder
from omniloom.pipeline.commit import locked, write_durably
from omniloom.pipeline.remote import Listed, Patience, RemoteError, Store, check_ranges, url_of

LISTING = "files.txt"
"""In the corpus, for servers that list nothing: a path a line, as `find . -type f` writes them."""
_ORIGIN = ".origin.json"
_VERSION = 1
_COPIED = (".json", ".parquet", ".jsonl")
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a mirror's files came from."""

    folder: Path
    url: str
    tars: frozenset[str]
    """Relative to the corpus, as of the last listing."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """What a copied file was when it was copied."""

    mark: str
    size: int


def mirror(url: str, patience: Patience | None = None) -> Path:
    """The folder of a corpus' mirror, made or brought up to date: everything but the tars.

    Processes may call it at the same time; one of them does the work. Files appear whole or not at all, and only those
    that the store says are other than the copies are read again. Raises ValueError, naming the repair, if there is no
    corpus, no package for such URLs, or a server without a listing or ranges; RemoteError if it does not answer.
    """
    url = url_of(url) or url
    asked = time.time()
    folder = _folder_of(url)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        state = _state(folder)
        if state.get("listed_at", 0.0) >= asked:  # another process asked later, and has its answer
            return folder
        asked = time.time()
        store = Store(url, patience)
        try:
            listed = _listed(store)
        except RemoteError as error:
            if state:
                error.add_note(f"The corpus as it was last is in {folder}.")
            raise
        copies = {name: _Copy(**copy) for name, copy in state.get("copies", {}).items()}
        wanted = {name: mark for name, mark in listed.items() if not name.endswith(".tar")}
        for name in copies.keys() - wanted.keys():
            (folder / name).unlink(missing_ok=True)

        def bring(name: str) -> tuple[str, _Copy]:
            mark, copy = wanted[name] or store.mark(name), copies.get(name)
            if copy and mark and copy == _Copy(mark, _size_of(folder / name)):
                return name, copy
            data = store.read(name)
            write_durably(folder / name, data)
            return name, _Copy(mark, len(data))

        # corpus.json last: a folder without one is no corpus.
        others = [name for name in sorted(wanted) if name != "corpus.json"]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="mirror") as pool:
            brought = dict(_all_or_none(pool, pool.map(bring, others)))
        brought |= [bring("corpus.json")]
        check_ranges(store, "corpus.json")
        state = {
            "version": _VERSION,
            "url": url,
            "listed_at": asked,
            "tars": sorted(name for name in listed if name.endswith(".tar")),
            "copies": {name: {"mark": copy.mark, "size": copy.size} for name, copy in sorted(brought.items())},
        }
        write_durably(folder / _ORIGIN, (json.dumps(state, indent=1) + "\n").encode())
    return folder


def origin_of(folder: Path) -> Origin | None:
    """Where a folder's files came from, or None if it is no mirror."""
    state = _state(folder)
    return Origin(folder, state["url"], frozenset(state["tars"])) if state else None


def refuse_remote(corpus: Path | str, verb: str) -> None:
    """Raises ValueError if the corpus lies behind a URL, or is the mirror of one that does; verb: like "build"."""
    url = url_of(corpus)
    origin = None if url else origin_of(Path(corpus))
    if url or origin:
        raise ValueError(
            f"{url or corpus} {f'mirrors {origin.url} and' if origin else 'is a URL, which'} can only be read:"
            f" {verb} in a folder of this machine, and copy it there after"
        )


def _folder_of(url: str) -> Path:
    words = re.sub(r"[^0-9A-Za-z._-]+", "-", url.partition("://")[2].rpartition("@")[2]).strip("-.")[-48:]
    return cache_folder() / "corpora" / f"{words or 'corpus'}-{xxhash.xxh3_64_hexdigest(url.encode())}"


def _state(folder: Path) -> dict[str, Any]:
    """What the last listing came to; empty if there was none."""
    try:
        state = json.loads((folder / _ORIGIN).read_bytes())
    except (OSError, ValueError):
        return {}
    return state if state.get("version") == _VERSION else {}


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _all_or_none(pool: ThreadPoolExecutor, results: Iterable[tuple[str, _Copy]]) -> Iterator[tuple[str, _Copy]]:
    try:
        yield from results
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)  # the first failure is enough
        raise


def _listed(store: Store) -> Mapping[str, str]:
    """Marks of the corpus' files by name. Raises ValueError if there is none, or no way to know them."""
    try:
        found = _walked(store)
    except OSError as error:
        if not store.url.startswith("http") or (named := _from_list(store)) is None:
            raise _no_listing(store, str(error)) if store.url.startswith("http") else error from error
        return named
    if "corpus.json" in found and (not store.url.startswith("http") or any("/" in name for name in found)):
        return found
    if store.url.startswith("http") and (named := _from_list(store)) is not None:
        return named
    try:
        store.read("corpus.json")
    except FileNotFoundError as error:
        raise ValueError(
            f"{store.url} is no corpus, it has no corpus.json: give the URL of a folder that `omniloom build` wrote"
        ) from error
    raise _no_listing(store, "it names no shards")


def _no_listing(store: Store, what: str) -> ValueError:
    return ValueError(
        f"{store.url} gives no listing of the corpus ({what}): turn index pages on in the server (nginx: autoindex on),"
        f" or run `find . -type f > {LISTING}` in the corpus there"
    )


def _walked(store: Store) -> dict[str, str]:
    top = store.listing()
    found = dict(_files("", top))
    for folder in ("shards", "drops"):
        if any(item.name == folder for item in top):
            found |= _files(f"{folder}/", store.listing(folder))
    if any(item.name == "columns" for item in top):
        for column in store.listing("columns"):
            if column.is_folder and not column.name.startswith("."):
                found |= _files(f"columns/{column.name}/", store.listing(f"columns/{column.name}"))
    return found


def _files(prefix: str, listed: Iterable[Listed]) -> Iterator[tuple[str, str]]:
    for item in listed:
        if not item.is_folder and _is_wanted(item.name):
            yield f"{prefix}{item.name}", item.mark


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and name != "quarantine.jsonl" and name.endswith((*_COPIED, ".tar"))


def _from_list(store: Store) -> dict[str, str] | None:
    """Names from the corpus' own listing, if it has one."""
    try:
        lines = store.read(LISTING).decode().splitlines()
    except FileNotFoundError:
        return None
    names = [line.strip().removeprefix("./") for line in lines]
    return {name: "" for name in names if _is_wanted(name.rpartition("/")[2]) and _is_inside(name)}


def _is_inside(name: str) -> bool:
    """Whether a listed path is one of a visible file in the corpus: it comes from elsewhere, and is written here."""
    return all(word and not word.startswith(".") for word in name.split("/"))
