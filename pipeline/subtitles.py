"""The lines of a video's text subtitles, inside its file or beside it, with their times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniloom.modalities.sample import Rejected, to_ns
from omniloom.pipeline.decode import only
from omniloom.pipeline.probe import FORMATS, SUBTITLE_FORMATS, VideoInfo, open_media

MAX_CUES = 100_000
_BESIDE = (".srt", ".vtt")


@dataclass(frozen=True, slots=True)
class TimedText:
    """A line of a subtitle stream, in presentation time."""

    start_ns: int
    end_ns: int
    text: str


def read_cues(path: str, info: VideoInfo) -> list[TimedText]:
    """Lines of the file's first text subtitle stream, sorted by start; none if it has none or it cannot be read."""
    return [] if info.subtitle_index is None else _read(path, info.subtitle_index)


def read_cues_beside(path: str) -> list[TimedText]:
    """Lines of `X.srt` or `X.vtt` beside `X.mp4`, sorted by start; none if there is none that can be read."""
    for ending in _BESIDE:
        beside = Path(path).with_suffix(ending)
        if beside.is_file():
            try:
                return _read(str(beside), 0, SUBTITLE_FORMATS)
            except Rejected:  # no subtitles, whatever its name says
                continue
    return []


def _read(path: str, index: int, formats: str = FORMATS) -> list[TimedText]:
    import av.error

    cues: list[TimedText] = []
    with open_media(path, formats) as container:
        stream: Any = only(container, index)
        try:
            for packet in container.demux(stream):
                if not packet.size or packet.pts is None:
                    continue
                subtitle = stream.decode2(packet)
                lines = [_plain(rect) for rect in subtitle.rects] if subtitle is not None else []
                text = " ".join(line for line in lines if line)
                start_ns = to_ns(packet.pts, stream.time_base)
                if text:
                    cues.append(TimedText(start_ns, start_ns + to_ns(packet.duration or 0, stream.time_base), text))
                if len(cues) >= MAX_CUES:
                    break
        except (av.error.FFmpegError, UnicodeDecodeError):
            pass  # what was read so far is good; captions are extra
    return sorted(cues, key=lambda cue: cue.start_ns)


def _plain(rect: Any) -> str:
    """The words of one subtitle: without ASS fields and markup."""
    raw = getattr(rect, "dialogue", b"") or getattr(rect, "text", b"")
    text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else str(raw)
    text = re.sub(r"\{[^}]*\}|<[^>]*>", "", text)
    return " ".join(text.replace("\\N", " ").replace("\\n", " ").replace("\\h", " ").split())
