"""Coded packets kept until the clips they belong to are closed, for recorders that copy instead of encoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from omniloom.modalities.base import AnyRecorder, PacketRecorder, recorder_of
from omniloom.modalities.sample import Rejected, to_ns
from omniloom.pipeline.probe import VideoInfo, open_media, say
from omniloom.pipeline.sound import Soundtrack

if TYPE_CHECKING:
    import av
    from typing_extensions import TypeIs

    from omniloom.pipeline.recipe import BuildRecipe


def recorders_of(recipe: BuildRecipe) -> dict[str, AnyRecorder]:
    """A new recorder of each modality that wants one, by its name: for one clip."""
    made = {name: recorder_of(modality, recipe.sections[name]) for name, modality in recipe.by_name().items()}
    return {name: recorder for name, recorder in made.items() if recorder is not None}


def wants_packets(recorder: AnyRecorder) -> TypeIs[PacketRecorder]:
    """Whether it copies coded packets instead of looking at pictures."""
    return getattr(recorder, "wants_packets", False)


def copies(recipe: BuildRecipe) -> bool:
    """Whether any modality copies packets."""
    return any(wants_packets(recorder) for recorder in recorders_of(recipe).values())


class PacketShelf:
    """Holds the video packets from the last keyframe that an open clip may need, in decoding order."""

    def __init__(self, path: str, info: VideoInfo, soundtrack: Soundtrack) -> None:
        assert info.video is not None
        # A handle of its own: streams serve as templates for the copies after decoding has closed its own.
        self._container = open_media(path)
        self._video = cast("av.VideoStream", self._container.streams[info.video.index])
        self._audio = cast("av.AudioStream", self._container.streams[info.audio.index]) if info.audio else None
        self._soundtrack = soundtrack
        self._packets: list[Any] = []
        self._counts = "avi" in info.format
        self._many = 64

    def add(self, packet: Any) -> None:
        """Takes the next packet."""
        self._packets.append(packet)

    def forget(self, before_ns: int) -> None:
        """Drops what no clip that begins at that time or later can need."""
        if len(self._packets) > self._many:  # now and then: looking through them costs their number
            del self._packets[: self._first_for(before_ns)]
            self._many = 2 * len(self._packets) + 64

    def hand_over(self, recorders: Mapping[str, AnyRecorder], start_ns: int, end_ns: int) -> tuple[str, str] | None:
        """Gives the packets of [start_ns, end_ns) to the recorders that want them; (reason, detail) if one cannot."""
        import av.error

        first = self._first_for(start_ns)
        shown = [at for at, packet in enumerate(self._packets) if at >= first and self._time(packet) < end_ns]
        # Of AVI only decoding tells when a packet is shown: all are handed over.
        last = len(self._packets) if self._counts else shown[-1] + 1 if shown else first
        video = self._packets[first:last]
        audio = self._soundtrack.packets(start_ns, end_ns) if self._audio is not None else []
        for name, recorder in recorders.items():
            if not wants_packets(recorder):
                continue
            try:
                recorder.coded(self._video, video, self._audio, audio, start_ns, end_ns)
            except Rejected as rejected:
                return rejected.reason, f"{name}: {rejected.detail}"
            except (av.error.FFmpegError, ValueError) as error:
                return "encode-failed", f"{name}: {say(error)}"
        return None

    def close(self) -> None:
        """Gives the handle up."""
        self._container.close()

    def _first_for(self, start_ns: int) -> int:
        """Index of the last keyframe shown at or before a time; 0 if none is known."""
        found = 0
        for at, packet in enumerate(self._packets):
            if packet.is_keyframe and self._time(packet) <= start_ns:
                found = at
        return found

    def _time(self, packet: Any) -> int:
        return to_ns(packet.pts if packet.pts is not None else packet.dts or 0, packet.time_base)
