"""What a media file holds, learned without decoding it: streams, clocks and sizes, or the reason it cannot be read."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from omniloom.modalities.others import FORMATS, MAX_PIXELS, MAX_STREAMS, open_media_source
from omniloom.modalities.sample import NS_PER_S, Rejected, to_ns

if TYPE_CHECKING:
    from av.container import InputContainer

Media: TypeAlias = str | bytes
"""A file by its path, or its bytes."""
SUBTITLE_FORMATS = "srt,webvtt"
"""Of files beside a video; never of a video: text that poses as media is refused."""
TEXT_SUBTITLES = frozenset({"mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text", "ttml"})
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


# ISO 639-1 codes and the ISO 639-2 codes (terminological, bibliographic) that mean the same.
_LANGUAGES = (
    "af afr,ar ara,be bel,bg bul,bn ben,bo bod tib,bs bos,ca cat,cs ces cze,cy cym wel,da dan,de deu ger,el ell gre,"
    "en eng,es spa,et est,eu eus baq,fa fas per,fi fin,fr fra fre,ga gle,gl glg,gu guj,he heb,hi hin,hr hrv,hu hun,"
    "hy hye arm,id ind,is isl ice,it ita,ja jpn,ka kat geo,kk kaz,km khm,kn kan,ko kor,la lat,lo lao,lt lit,lv lav,"
    "mk mkd mac,ml mal,mn mon,mr mar,ms msa may,my mya bur,ne nep,nl nld dut,no nor nb nob nn nno,pa pan,pl pol,"
    "ps pus,pt por,ro ron rum,ru rus,sa san,si sin,sk slk slo,sl slv,sq sqi alb,sr srp,sv swe,sw swa,ta tam,te tel,"
    "th tha,tl tgl fil,tr tur,uk ukr,ur urd,uz uzb,vi vie,zh zho chi cmn,zu zul"
)
_LANGUAGE = {code: codes.split()[0] for codes in _LANGUAGES.split(",") for code in codes.split()}


@dataclass(frozen=True, slots=True)
class StreamsConfig:
    """Which streams of a file are read."""

    video: str = "best"
    """ "best" (most pixels), an index in the file ("2"), or a language ("eng")."""
    audio: str = "best"
    """ "best" (the main one, of highest rate), an index, a language, or "none"."""

    def __post_init__(self) -> None:
        for name, also in (("video", ""), ("audio", ', or "none"')):
            value = getattr(self, name)
            known = value == "best" or (value == "none" and also)
            if known or re.fullmatch(r"[0-9]{1,4}|[A-Za-z]{2,3}(-[A-Za-z0-9-]+)?", str(value)):
                continue
            raise ValueError(
                f'streams.{name} is "best", the index of a stream in the file ("2"), a language by its code '
                f'("en", "eng"){also}; got {value!r}'
            )


@dataclass(frozen=True, slots=True)
class VideoTrack:
    """The video stream that is read, never a cover picture."""

    index: int
    codec: str
    width: int
    height: int
    """As coded, before rotation."""
    time_base: Fraction
    start_ns: int | None
    declared_end_ns: int | None
    """Where the container says that the stream ends; None if it does not say."""
    pixel_aspect: float
    """Width of a pixel over its height: 1 unless the container says otherwise."""
    frame_ns: int
    """Average time a frame is on screen; 40 ms if unknown."""


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """The audio stream that is read."""

    index: int
    codec: str
    sample_rate_hz: int
    channels: int
    time_base: Fraction
    start_ns: int | None


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """One media file, before decoding. Times are nanoseconds of the container's presentation clock."""

    path: str
    """ "" of one in memory."""
    format: str
    size_bytes: int
    duration_ns: int | None
    video: VideoTrack | None
    audio: AudioTrack | None
    subtitle_index: int | None
    """The first text subtitle stream, if any: of the audio's language if `StreamsConfig` asks for one."""
    cut_short: bool
    """Whether the container states more bytes than the file has: a broken download or recording."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """What container and video stream say of themselves, names in lower case; cut short, for anybody may write them."""


def open_media(media: Media, formats: str = FORMATS) -> InputContainer:
    """Open a local file, or its bytes, for reading: these formats only, no network, no playlists, metadata never fatal.

    Raises Rejected("probe", reason): not-a-file, unreadable, empty-file, playlist, moov-missing, not-media,
    too-large-picture.
    """
    import av.error

    _check_file(media)
    try:
        # Absolute, so that no file name is taken for a protocol ("http:x.mp4").
        source = os.path.abspath(media) if isinstance(media, str) else io.BytesIO(media)  # noqa: PTH100
        return open_media_source(source, formats)
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise Rejected("probe", "unreadable", say(error)) from error
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:  # bad tags raise UnicodeDecodeError too
        raise Rejected("probe", _why_not_media(media), say(error)) from error


def probe(media: Media, streams: StreamsConfig | None = None) -> VideoInfo:
    """The file's streams and clocks; of several videos and sounds the ones that `streams` asks for.

    Raises Rejected("probe", reason) with the reasons of `open_media` and: no-streams (none that is media),
    no-such-stream (none that `streams` asks for), unknown-codec, encrypted, too-large-picture.
    """
    import av.error

    try:
        with open_media(media) as container:
            return describe(media, container, streams or StreamsConfig())
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise Rejected("probe", "not-media", say(error)) from error


def describe(media: Media, container: InputContainer, wanted: StreamsConfig) -> VideoInfo:
    """What `probe` says, of a file that is open. Raises as `probe`, and what PyAV raises."""
    streams: list[Any] = list(container.streams)
    playable = [stream for stream in streams if stream.type in ("video", "audio") and not _is_cover(stream)]
    known = [stream for stream in playable if stream.codec_context is not None]
    if not playable:
        kinds = ", ".join(sorted({stream.type for stream in streams})) or "nothing"
        raise Rejected("probe", "no-streams", f"neither video nor audio in the file: {kinds}")
    if not known:
        tags = ", ".join(sorted({f"{stream.type} {stream.id:#x}" for stream in playable}))
        raise Rejected("probe", "unknown-codec", f"no decoder for {tags}")
    videos = [stream for stream in known if stream.type == "video" and stream.width > 0 and stream.height > 0]
    audios = [stream for stream in known if stream.type == "audio" and (stream.sample_rate or 0) > 0]
    # The first on ties.
    video = max(_asked_for("video", wanted.video, videos, streams), key=lambda s: s.width * s.height, default=None)
    audio = max(_asked_for("audio", wanted.audio, audios, streams), key=_audio_rank, default=None)
    for chosen in (video, audio):
        if chosen is not None and _tag(chosen) in ("encv", "enca", "drmi", "drms"):
            raise Rejected("probe", "encrypted", f"stream {chosen.index} is protected ({_tag(chosen)})")
    if video is not None and video.width * video.height > MAX_PIXELS:
        raise Rejected("probe", "too-large-picture", f"{video.width}x{video.height} exceeds {MAX_PIXELS} pixels")
    if video is None and audio is None:
        raise Rejected("probe", "no-streams", "no stream states a picture size or a sample rate")
    texts = [s for s in streams if s.type == "subtitle" and s.codec_context and s.codec_context.name in TEXT_SUBTITLES]
    spoken = [stream for stream in texts if _same_language(stream.language, wanted.audio)]
    duration = container.duration
    return VideoInfo(
        path=media if isinstance(media, str) else "",
        format=container.format.name,
        size_bytes=Path(media).stat().st_size if isinstance(media, str) else len(media),
        duration_ns=duration * 1000 if duration and duration > 0 else None,
        video=_video_track(video, container) if video is not None else None,
        audio=_audio_track(audio) if audio is not None else None,
        subtitle_index=(spoken or texts)[0].index if texts else None,
        cut_short=_is_cut_short(media),
        tags=_tags({**container.metadata, **(video.metadata if video is not None else {})}),
    )


def _tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """The first 64 tags of at most 200 characters each."""
    return {name[:200].lower(): value[:200] for name, value in islice(metadata.items(), 64)}


def _asked_for(kind: str, wish: str, able: list[Any], streams: list[Any]) -> list[Any]:
    """Those of the decodable streams of a kind that a wish of `StreamsConfig` allows."""
    if wish == "none":
        return []
    if wish == "best":
        return able
    found = [s for s in able if (s.index == int(wish) if wish.isdigit() else _same_language(s.language, wish))]
    if not found:
        listed = "; ".join(map(_in_words, streams[:MAX_STREAMS]))
        raise Rejected("probe", "no-such-stream", f"streams.{kind}={wish}, but the file has {listed}")
    return found


def _same_language(tag: str | None, wish: str) -> bool:
    """Whether two codes mean one language: "en", "eng" and "en-US" do."""
    ours, theirs = ((code or "").lower().split("-")[0] for code in (wish, tag))
    return bool(theirs) and _LANGUAGE.get(theirs, theirs) == _LANGUAGE.get(ours, ours)


def _in_words(stream: Any) -> str:
    """A stream in a few words, for those who choose one: "3 video h264 480x270 eng"."""
    codec = stream.codec_context
    words = [str(stream.index), stream.type, codec.name if codec else "(no decoder)"]
    if codec and stream.type == "video":
        words.append(f"{stream.width}x{stream.height}")
    elif codec and stream.type == "audio":
        words.append(f"{stream.sample_rate} Hz")
    if _is_cover(stream):
        words.append("(a cover picture)")
    return " ".join([*words, stream.language or ""]).strip()


def _video_track(stream: Any, container: InputContainer) -> VideoTrack:
    start_ns = to_ns(stream.start_time, stream.time_base) if stream.start_time is not None else None
    end_ns: int | None = None
    if stream.duration and "mov" in container.format.name:
        end_ns = (start_ns or 0) + to_ns(stream.duration, stream.time_base)
    elif "DURATION" in stream.metadata:  # Matroska: the time at which the track ends
        end_ns = _clock_ns(stream.metadata["DURATION"])
    elif container.duration and container.duration > 0:
        end_ns = ((container.start_time or 0) + container.duration) * 1000
    rate = stream.average_rate or stream.guessed_rate
    frame_ns = round(NS_PER_S / rate) if rate and 0.01 < rate < 10_000 else NS_PER_S // 25
    aspect = float(stream.sample_aspect_ratio or 0)
    return VideoTrack(
        index=stream.index,
        codec=stream.codec_context.name,
        width=stream.width,
        height=stream.height,
        time_base=stream.time_base,
        start_ns=start_ns,
        declared_end_ns=end_ns,
        pixel_aspect=aspect if 0.1 < aspect < 10 else 1.0,
        frame_ns=frame_ns,
    )


def _audio_track(stream: Any) -> AudioTrack:
    return AudioTrack(
        index=stream.index,
        codec=stream.codec_context.name,
        sample_rate_hz=stream.sample_rate,
        channels=stream.channels,
        time_base=stream.time_base,
        start_ns=to_ns(stream.start_time, stream.time_base) if stream.start_time is not None else None,
    )


def _audio_rank(stream: Any) -> tuple[bool, bool, int, int]:
    from av.stream import Disposition

    # Comments, dubs and descriptions for the blind are not the sound of the scene.
    aside = Disposition.dub | Disposition.comment | Disposition.visual_impaired | Disposition.descriptions
    return (
        not stream.disposition & aside,
        bool(stream.disposition & Disposition.default),
        stream.sample_rate,
        stream.channels,
    )


def _is_cover(stream: Any) -> bool:
    from av.stream import Disposition

    return stream.type == "video" and bool(
        stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
    )


def _tag(stream: Any) -> str:
    """The stream's tag; "" if it is no letters, as AVI's numbers for sound are."""
    try:
        return str(stream.codec_context.codec_tag)
    except UnicodeDecodeError:
        return ""


def _check_file(media: Media) -> None:
    if isinstance(media, bytes):
        if not media:
            raise Rejected("probe", "empty-file", "0 bytes")
        return
    try:
        info = Path(media).stat()
    except OSError as error:
        raise Rejected("probe", "unreadable", say(error)) from error
    if not stat.S_ISREG(info.st_mode):  # opening a FIFO would wait for ever
        raise Rejected("probe", "not-a-file", "not a regular file")
    if info.st_size == 0:
        raise Rejected("probe", "empty-file", "0 bytes")


def _stream(media: Media) -> BinaryIO:
    return Path(media).open("rb") if isinstance(media, str) else io.BytesIO(media)


def _why_not_media(media: Media) -> str:
    """A stable reason for a file that FFmpeg would not open."""
    try:
        with _stream(media) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(4096)
            if head.lstrip()[:7] in (b"#EXTM3U", b"ffconca") or b"<MPD" in head:
                return "playlist"
            if head[4:8] in _BOXES:
                whole = any(kind == b"moov" and end <= size for kind, end in _boxes(file))
                return "not-media" if whole else "moov-missing"
    except OSError:
        return "unreadable"
    magic = (b"\x1a\x45\xdf\xa3", b"RIFF", b"OggS", b"fLaC", b"FLV\x01", b"\x00\x00\x01\xba")
    return "damaged-header" if head.startswith(magic) else "not-media"


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(kind, end) of the top-level boxes of an MP4 file."""
    size = file.seek(0, os.SEEK_END)
    at = 0
    for _ in range(100_000):  # fragmented files have two a fragment
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        end = size if length == 0 else at + length
        yield head[4:8], end
        if length < 8:
            return
        at = end


def _is_cut_short(media: Media) -> bool:
    """Whether the outermost structure of an MP4, AVI, WAV or Matroska file ends beyond the end of the file."""
    with _stream(media) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(64)
        if head[4:8] in _BOXES:
            return any(end > size for _, end in _boxes(file))
        if head[:4] == b"RIFF":
            return (
                0 < int.from_bytes(head[4:8], "little") < 2**32 - 1
                and int.from_bytes(head[4:8], "little") + 8 > size + 1
            )
        at = file.seek(0) + head.find(b"\x18\x53\x80\x67")  # the segment, after the EBML header
        if head[:4] == b"\x1a\x45\xdf\xa3" and at >= 0 and len(head) > at + 12 and head[at + 4] == 1:
            length = int.from_bytes(head[at + 5 : at + 12], "big")
            return length != 2**56 - 1 and at + 12 + length > size  # all ones: a live stream, of unknown length
    return False


def _clock_ns(text: str) -> int | None:
    """Nanoseconds of a text like 00:01:02.500000000, or None."""
    parts = text.strip().split(":")
    try:
        hours, minutes, seconds = int(parts[0]), int(parts[1]), Fraction(parts[2])
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return (hours * 3600 + minutes * 60) * NS_PER_S + round(seconds * NS_PER_S)


def say(error: BaseException) -> str:
    """What went wrong, for the detail of a Drop."""
    # Not the whole message: it holds the path, and details are to be equal wherever a file lies.
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"[:300]
