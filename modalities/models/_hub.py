"""Where a `transformers` model lies: in a folder, in the hub's cache on this machine, or on the hub itself.

A model is named by a folder with a config.json, or as on the hub: "owner/name", or "owner/name@revision" for a branch,
tag or commit. What is in the cache is used as it is and nobody is asked; only what is not there needs a network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast


def is_folder(name: str) -> bool:
    """Whether the name looks like a path and not like one on the hub."""
    return name.startswith(("/", ".", "~")) or name.count("/") != 1 or Path(name).is_dir()


def stored(name: str) -> Path | None:
    """The folder with the model's configuration and all its weights, if it is on this machine; asks no network."""
    if is_folder(name):
        folder = Path(name).expanduser()
        return folder if (folder / "config.json").is_file() and _has_weights(folder) else None
    repository, revision = _named(name)
    found = import_module("huggingface_hub").try_to_load_from_cache(repository, "config.json", revision=revision)
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder and _has_weights(folder) else None


def fetched(name: str) -> Path:
    """As `stored`, fetched from the hub first if need be. Raises ValueError, in one line, if it cannot be had."""
    folder = stored(name)
    if folder:
        return folder
    info = _offered(name)
    hub = import_module("huggingface_hub")
    try:
        paths = [Path(hub.hf_hub_download(info.id, file, revision=info.sha)) for file in _wanted(_files(info))]
    except (OSError, hub.errors.HfHubHTTPError) as error:
        raise ValueError(f"{name!r} could not be fetched from the hub ({_brief(error)})") from error
    return next(path.parent for path in paths if path.name == "config.json")


@lru_cache(maxsize=16)
def stated(name: str, file: str = "config.json") -> Mapping[str, Any]:
    """What a .json of the model says. Raises ValueError, in one line, if it cannot be had or has no weights."""
    folder = stored(name)
    if folder is None and is_folder(name):
        missing = "weights (*.safetensors)" if (Path(name).expanduser() / "config.json").is_file() else "config.json"
        raise ValueError(f"{name!r} is no folder of a saved model: it has no {missing}")
    if folder is None:
        info = _offered(name)
        hub = import_module("huggingface_hub")
        try:
            folder = Path(hub.hf_hub_download(info.id, file, revision=info.sha)).parent
        except (OSError, hub.errors.HfHubHTTPError) as error:
            raise ValueError(f"{name!r} could not be fetched from the hub ({_brief(error)})") from error
    try:
        return cast("dict[str, Any]", json.loads((folder / file).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name!r} has no readable {file} ({_brief(error)})") from error


@lru_cache(maxsize=16)
def described(name: str) -> tuple[str, str]:
    """(name, revision): the hub's commit, or a hash of a folder's weights and settings, equal on every machine."""
    folder = stored(name)
    if is_folder(name):
        if folder is None:
            raise ValueError(f"{name!r} is no folder of a saved model")
        return folder.resolve().name, _hash_of(folder)
    repository, _ = _named(name)
    # The cache keeps each commit in a folder of that name.
    return repository, folder.name if folder else str(_offered(name).sha)


@lru_cache(maxsize=16)
def licence(name: str) -> str:
    """What the model's own README states, such as "apache-2.0"; "" if it states none or cannot be asked."""
    import yaml

    folder = stored(name)
    if folder is None:
        try:
            return str(getattr(_offered(name).card_data, "license", None) or "")
        except ValueError:
            return ""
    readme = folder / "README.md"
    if not readme.is_file():
        return ""
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---", 2)
    try:
        front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        return ""
    return str(cast("dict[str, Any]", front).get("license") or "") if isinstance(front, dict) else ""


def _named(name: str) -> tuple[str, str | None]:
    repository, _, revision = name.partition("@")
    return repository, revision or None


@lru_cache(maxsize=16)
def _offered(name: str) -> Any:
    """What the hub says of the model: one question, answered or refused at once."""
    hub = import_module("huggingface_hub")
    repository, revision = _named(name)
    if hub.constants.HF_HUB_OFFLINE:
        raise ValueError(f"{name!r} is not on this machine, and HF_HUB_OFFLINE forbids to ask the hub")
    try:
        info = hub.HfApi().model_info(repository, revision=revision, timeout=10)
    # Whatever HTTP client this version of the hub uses raises errors of its own.
    except Exception as error:
        raise ValueError(f"{name!r} is not on this machine, and the hub does not give it ({_brief(error)})") from error
    files = _files(info)
    if "config.json" not in files or not any(file.endswith(".safetensors") for file in _wanted(files)):
        raise ValueError(f"{name!r} on the hub has no config.json with weights as *.safetensors")
    return info


def _files(info: Any) -> list[str]:
    return [str(sibling.rfilename) for sibling in info.siblings or ()]


def _wanted(files: list[str]) -> list[str]:
    """Settings, README and one set of weights: not those of other formats and precisions that lie beside them."""
    whole = "model.safetensors" in files
    weights = [file for file in files if file == "model.safetensors" or (not whole and file.startswith("model-000"))]
    kept = {file for file in weights if file.endswith(".safetensors")}
    kept |= {
        file
        for file in files
        if "/" not in file and (file.endswith((".json", ".jinja")) or file in {"README.md", "merges.txt", "vocab.txt"})
    }
    return sorted(kept)


def _has_weights(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return True
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return bool(shards) and all((folder / str(shard)).is_file() for shard in shards)


def _hash_of(folder: Path) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return f"xxh3:{digest.hexdigest()}"


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).strip()[:160]
