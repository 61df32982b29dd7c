"""One sample of other people's tars as a sidecar row: which member is which part, and the facts to read it by.

    jpg jpeg png webp                  frames: one, at time 0; not taken beside a movie, which has its own
    mp4 m4v mov mkv webm               video; one without pictures is sound
    wav flac mp3 m4a ogg opus aac      audio
    txt text caption, else json        caption
    json                               facts: its numbers, texts and flat lists

Members are looked at, not decoded, but for the first frame of movies and sounds.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import xxhash

from omniloom.modalities import Drop, Part, Rejected, SourceId, load
from omniloom.modalities.base import Codec
from omniloom.modalities.caption import others_captions
from omniloom.modalities.codecs import decode
from omniloom.modalities.others import SAMPLE_RATE_HZ, look_at_picture
from omniloom.modalities.sample import NS_PER_S, Fact, to_ns
from omniloom.pipeline.decode import ENTERABLE, Damage, demux, only
from omniloom.pipeline.extract import split_of
from omniloom.pipeline.picture import Scaler
from omniloom.pipeline.probe import StreamsConfig, describe, open_media, say
from omniloom.pipeline.shard import part_columns, text_of
from omniloom.pipeline.sidecar import CORE_FACTS, canonical_json
from omniloom.pipeline.untar import Listed

MODALITIES = ("frames", "video", "audio", "caption")
PICTURES = ("jpg", "jpeg", "png", "webp")
MOVIES = ("mp4", "m4v", "mov", "mkv", "webm")
SOUNDS = ("wav", "flac", "mp3", "m4a", "ogg", "opus", "aac")
TEXTS = ("txt", "text", "caption")

_NAME = re.compile(r"((?:.*/|)[^./]+)\.([^/]+)", re.DOTALL)
"""Key and suffix, parted at the first dot of the file's name, as webdataset does it; hidden files are no match."""
_PLAIN_KEY = re.compile(r"[0-9A-Za-z_-]{1,56}")
_MAX_FACT = 1000
"""Characters of a fact; longer ones stay where they are, in the json member."""
_CAPTION_KEYS = frozenset({"caption", "captions", "text", "visual", "audio", "omni"})


@dataclass(slots=True)
class Group:
    """The members of one sample, by their suffixes in lower case."""

    key: str
    members: dict[str, Listed] = field(default_factory=dict[str, Listed])


@dataclass(slots=True)
class Adopted:
    """What a sample came to."""

    row: dict[str, Any] | None = None
    drops: list[Drop] = field(default_factory=list[Drop])
    left_out: Counter[str] = field(default_factory=Counter[str])
    """What the corpus has no place for, by suffix, or "json: ..."."""


def groups(listed: Iterable[Listed], left_out: Counter[str]) -> Iterator[Group | Listed]:
    """Members by sample, in the order in which samples first appear; and those that repeat the name of another.

    Files that belong to no sample are counted in `left_out`.
    """
    found: dict[str, Group] = {}
    for member in listed:
        match = _NAME.fullmatch(member.name.removeprefix("./"))
        if match is None or match[1].startswith("__"):
            left_out["no sample's"] += 1
            continue
        group = found.setdefault(match[1], Group(match[1]))
        suffix = match[2].lower()
        if suffix in group.members:
            yield member
        else:
            group.members[suffix] = member
    yield from found.values()


def key_of(unit: int, key: str) -> str:
    """The sample's key in the corpus: with its unit's number, since other people's keys are their shard's alone."""
    if not _PLAIN_KEY.fullmatch(key):
        readable = re.sub(r"[^0-9A-Za-z_-]+", "-", key.rpartition("/")[2])[:24]
        key = f"{readable}-{hashlib.blake2b(key.encode(errors='surrogateescape'), digest_size=12).hexdigest()}"
    return f"{unit:06d}-{key}"


def adopt(
    group: Group, unit: int, tar: str, read: Callable[[Listed], bytes], known: set[str], test_fraction: float
) -> Adopted:
    """The sidecar row of a sample, if a picture, a sound or a movie is left, and a drop for each member that is bad.

    tar: its name, for people. known: keys of the tar so far. test_fraction: held out where the record names no split.
    """
    taker = _Taker(group, tar, read)
    taker.media()
    record = taker.record()
    taker.caption(record)
    adopted = taker.adopted
    for suffix in group.members.keys() - taker.used:
        adopted.left_out[suffix] += 1
    key = key_of(unit, group.key)
    if not {*taker.columns} & {"frames", "video", "audio"}:
        if not adopted.drops:
            where = taker.where(next(iter(group.members.values())))
            adopted.drops.append(Drop(where, "list", "no-media", f"{', '.join(sorted(group.members))} is all there is"))
        return adopted
    if key in known:  # two keys that became one: by a hash of 96 bits they do not
        adopted.drops.append(Drop(f"{tar}/{group.key}", "list", "duplicate-key", key))
        return adopted
    facts, core = _facts_of(record, adopted.left_out)
    source = SourceId(_source_of(record, taker.digest))
    start_ns, end_ns = taker.span_ns
    if not isinstance(core["split"], str):
        core["split"] = split_of(source, {}, test_fraction)
    adopted.row = {
        "key": key,
        "unit": unit,
        "source_id": source,
        "source_path": text_of(f"{tar}/{group.key}"),
        "start_ns": start_ns,
        "end_ns": end_ns,
        "duration_ns": end_ns - start_ns,
        "time_base": taker.time_base,
        **core,
        **{name: value for name, value in taker.core.items() if value is not None},
        "facts": canonical_json({**facts, "key": text_of(group.key)}).decode(),
        **taker.columns,
    }
    return adopted


class _Taker:
    """Takes one sample's members for parts."""

    def __init__(self, group: Group, tar: str, read: Callable[[Listed], bytes]) -> None:
        self._group, self._tar, self._read = group, tar, read
        self.columns: dict[str, dict[str, Any]] = {}
        self.core: dict[str, Any] = {}
        self.used: set[str] = set()
        self.adopted = Adopted()
        self.span_ns = (0, 1)
        """A picture has no length, a sample must have one."""
        self.time_base = ""
        self.digest = ""
        """sha256 of the first of movie, picture and sound."""

    def where(self, member: Listed) -> str:
        return f"{self._tar}/{member.name}"

    def media(self) -> None:
        for name, suffixes, take in (
            ("video", MOVIES, self._movie),
            ("frames", PICTURES, self._picture),
            ("audio", SOUNDS, self._sound),
        ):
            if name in self.columns or (name == "frames" and "video" in self.columns):
                continue
            for suffix in suffixes:
                if suffix in self._group.members and name not in self.columns:
                    self._try(suffix, take)

    def record(self) -> dict[str, Any]:
        """What the json member says, {} if there is none."""
        member = self._group.members.get("json")
        if member is None:
            return {}
        self.used.add("json")
        data = self._read(member)
        try:
            record = decode("json", data)
        except ValueError as error:
            self.adopted.drops.append(Drop(self.where(member), "probe", "bad-json", str(error)[:300]))
            return {}
        self.columns["json"] = {**_lies(member, data), "member": text_of(member.name)}
        return cast("dict[str, Any]", record) if isinstance(record, dict) else {"captions": record}

    def caption(self, record: Mapping[str, Any]) -> None:
        for suffix in TEXTS:
            if suffix in self._group.members and "caption" not in self.columns:
                self._try(suffix, self._text)
        if "caption" not in self.columns and "json" in self.columns:
            member = self._group.members["json"]
            try:
                self._put_captions(member, self._read(member), "json", record)
            except ValueError:  # its "caption" is no text: then it is no caption
                self.adopted.left_out["json: caption"] += 1

    def _try(self, suffix: str, take: Callable[[Listed, bytes], None]) -> None:
        import av.error

        member = self._group.members[suffix]
        self.used.add(suffix)
        drop: tuple[Any, str, str]
        try:
            data = self._read(member)
            if not data:
                raise Rejected("probe", "empty-file", "0 bytes")
            take(member, data)
            if not self.digest and suffix not in TEXTS:
                self.digest = hashlib.sha256(data).hexdigest()
            return
        except Rejected as rejected:
            drop = rejected.stage, rejected.reason, rejected.detail
        except ValueError as error:
            drop = "probe", "damaged-member", str(error)
        except (av.error.FFmpegError, MemoryError) as error:
            drop = "probe", "damaged-member", say(error)
        self.adopted.drops.append(Drop(self.where(member), drop[0], drop[1], drop[2][:300]))

    def _picture(self, member: Listed, data: bytes) -> None:
        width, height = look_at_picture(data)
        facts: dict[str, Fact] = {"pts_ns": [0], "offsets": [0], "sizes": [len(data)], "width": width, "height": height}
        self._put("frames", member, data, {**facts, "k": [], "intrinsics": "", "poses": []}, "picture")
        self.core |= {"width": width, "height": height}

    def _movie(self, member: Listed, data: bytes) -> None:
        with open_media(data) as container:
            info = describe(data, container, StreamsConfig())
            track = info.video
            if track is None:
                self._sound(member, data)
                return
            if info.cut_short:
                raise Rejected("probe", "truncated", "its outermost box ends beyond its end")
            if ENTERABLE.isdisjoint(info.format.split(",")):
                raise Rejected("probe", "no-times", f"{info.format} does not say when its pictures are shown")
            stream = only(container, track.index)
            packets = [packet for packet in demux(container, stream) if isinstance(packet, Damage) or packet.size]
            ticks, last_ticks = _times_of(packets)
            frame = next((frame for packet in packets for frame in stream.codec_context.decode(packet)), None)
            frame = frame or next(iter(stream.codec_context.decode(None)), None)
            if frame is None or frame.is_corrupt:
                raise Rejected("decode", "no-video-frames", "its first picture cannot be decoded")
            width, height = Scaler().upright(frame)
        start_ns = to_ns(ticks[0], track.time_base)
        pts_ns = [to_ns(tick, track.time_base) - start_ns for tick in ticks]
        lasts_ns = to_ns(last_ticks, track.time_base) if last_ticks else track.frame_ns
        self.span_ns = start_ns, start_ns + pts_ns[-1] + max(1, lasts_ns)
        self.time_base = f"{track.time_base.numerator}/{track.time_base.denominator}"
        offset_ns = info.audio.start_ns - start_ns if info.audio and info.audio.start_ns is not None else 0
        self.core |= {
            "width": width,
            "height": height,
            "audio_offset_ns": offset_ns if info.audio else None,
            "av_check": None if info.audio else "no-audio",
        }
        facts: dict[str, Fact] = {
            "pts_ns": pts_ns,
            "width": width,
            "height": height,
            "codec": track.codec,
            "has_audio": info.audio is not None,
            "skip": 0,
            "after": 0,
            "audio_offset_ns": offset_ns,
            "pixel_aspect": track.pixel_aspect,
        }
        self._put("video", member, data, facts, "movie")

    def _sound(self, member: Listed, data: bytes) -> None:
        with open_media(data) as container:
            info = describe(data, container, StreamsConfig())
            if info.audio is None:
                raise Rejected("probe", "no-sound", "the file has no audio stream")
            if info.cut_short:
                raise Rejected("probe", "truncated", "its outermost box ends beyond its end")
            stream = only(container, info.audio.index)
            if next(iter(container.decode(stream)), None) is None:
                raise Rejected("decode", "no-sound", "its first samples cannot be decoded")
        if info.duration_ns is not None:
            num_samples = max(1, info.duration_ns * SAMPLE_RATE_HZ // NS_PER_S)
        else:
            num_samples = len(decode("sound", data))
        self._put("audio", member, data, {"num_samples": num_samples, "sample_rate_hz": SAMPLE_RATE_HZ}, "sound")
        if "video" not in self.columns:
            self.span_ns = 0, max(1, num_samples * NS_PER_S // SAMPLE_RATE_HZ)

    def _text(self, member: Listed, data: bytes) -> None:
        self._put_captions(member, data, "text", decode("text", data))

    def _put_captions(self, member: Listed, data: bytes, stored_as: Codec, stored: Any) -> None:
        captions = others_captions(stored)
        if not len(captions):
            return
        counts: dict[str, Fact] = {f"num_{kind}": len(getattr(captions, kind)) for kind in ("visual", "audio", "omni")}
        model = "given:json" if stored_as == "json" else "given:txt"
        self._put("caption", member, data, {**counts, "model": model}, stored_as)

    def _put(self, name: str, member: Listed, data: bytes, facts: Mapping[str, Fact], stored_as: Codec) -> None:
        self.columns[name] = {
            **_lies(member, data),
            **part_columns(name, Part(data, {"model": "given", **facts}), load(name)),
            "member": text_of(member.name),
            "stored_as": stored_as,
        }


def _lies(member: Listed, data: bytes) -> dict[str, Any]:
    return {"offset": member.offset, "size": member.size, "xxh3": xxhash.xxh3_64_intdigest(data)}


def _times_of(packets: Sequence[Any]) -> tuple[list[int], int]:
    """Times of the pictures that a player shows, rising, in ticks; and how long the last one lasts, 0 if unknown."""
    for packet in packets:
        if isinstance(packet, Damage):
            raise Rejected("decode", "damaged-video", packet.detail)
        if packet.has_sidedata("encryption_info"):
            raise Rejected("decode", "encrypted", "the video stream is encrypted")
    shown = [packet for packet in packets if not packet.is_discard]
    if not shown:
        raise Rejected("decode", "no-video-frames", "the video stream is empty")
    if any(packet.pts is None for packet in shown):
        raise Rejected("probe", "no-times", "some pictures have no time")
    last = max(shown, key=lambda packet: packet.pts)
    return sorted(packet.pts for packet in shown), last.duration or 0


def _facts_of(record: Mapping[str, Any], left_out: Counter[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of what a json member says: facts to keep, and those that every corpus has a column for."""
    core: dict[str, Any] = dict.fromkeys(CORE_FACTS)
    facts: dict[str, Any] = {}
    for name, value in record.items():
        if name in CORE_FACTS:
            if name in {"language", "split", "status"} and isinstance(value, str) and _is_fact(value):
                core[name] = value
        elif name in _CAPTION_KEYS or value is None:
            continue
        elif _is_fact(value) and _is_fact(name):
            facts[name] = value
        else:
            left_out["json: nested or long"] += 1
    return facts, core


def _is_fact(value: Any) -> bool:
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return len(items) <= _MAX_FACT and all(not isinstance(item, list) and _is_fact(item) for item in items)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= _MAX_FACT and text_of(value) == value  # JSON can escape what UTF-8 cannot hold
    return isinstance(value, (bool, int))


def _source_of(record: Mapping[str, Any], digest: str) -> str:
    """sha256 of the address that it came from, so that all clips of one video have one source; else of its bytes."""
    url = record.get("url")
    return hashlib.sha256(url.encode(errors="replace")).hexdigest() if isinstance(url, str) and url else digest
