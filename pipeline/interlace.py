"""Interlaced pictures hold two moments in alternate lines; they become as many pictures of one moment each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from omniloom.pipeline.decode import Damage, Picture

if TYPE_CHECKING:
    from av import VideoFrame

_LEAST = (3, 4)
"""(width, height) of the smallest picture that bwdif takes."""


def deinterlace(items: Iterable[Picture | Damage]) -> Iterator[Picture | Damage]:
    """The same items in the same order and at the same times; interlaced pictures show their first field's moment.

    FFmpeg's `bwdif` fills the other lines from the picture and its two neighbours, so a picture depends on no more than
    these, wherever decoding began. A neighbour that was not decoded, or is of another size or format, is as if there
    were none; a picture without any is taken for a still. Progressive pictures are the very same objects; before the
    first interlaced one nothing is held back, from there on one picture. Costs 0.14 D on H.264 of 1080 lines.
    """
    fields = _Fields()
    for item in items:
        yield from fields.take(item)
    yield from fields.finish()


class _Fields:
    """Holds the filter for pictures of one shape, and what is inside it."""

    def __init__(self) -> None:
        self._filter: _Bwdif | None = None
        self._shape: object = None
        self._before: VideoFrame | None = None
        """The last picture, while no filter runs: the first interlaced one needs it as a neighbour."""
        self._held: deque[Picture | Damage] = deque()
        """In order: the picture inside the filter, and what came after it."""

    def take(self, item: Picture | Damage) -> Iterator[Picture | Damage]:
        if isinstance(item, Damage):
            self._held.append(item)
            if self._filter is None:
                yield from self._release()
            return
        frame = item.frame
        shape = None if frame is None else (frame.width, frame.height, frame.format.name)
        if shape != self._shape:
            yield from self.finish()
            self._shape, self._before = shape, None
        if frame is None:
            yield item
            return
        if self._filter is None and frame.interlaced_frame and frame.width >= _LEAST[0] and frame.height >= _LEAST[1]:
            self._filter = _Bwdif(frame)
            if self._before is not None:
                self._filter.push(self._before)
        if self._filter is None:
            self._before = frame
            yield item
            return
        shown = self._filter.push(frame)
        if shown is not None and self._held:  # the first that comes out may be the neighbour from before
            yield self._settle(shown)
            yield from self._release()
        self._held.append(item)

    def finish(self) -> Iterator[Picture | Damage]:
        """What is still held; the filter ends, and the last picture has no neighbour after it."""
        if self._filter is not None:
            shown = self._filter.push(None)
            assert shown is not None, "the filter gives as many frames as it takes"
            yield self._settle(shown)
            self._filter = None
        yield from self._release()

    def _settle(self, shown: VideoFrame) -> Picture:
        picture = self._held.popleft()
        assert isinstance(picture, Picture)
        assert picture.frame is not None
        return replace(picture, frame=shown) if picture.frame.interlaced_frame else picture

    def _release(self) -> Iterator[Damage]:
        while self._held:
            item = self._held.popleft()
            assert isinstance(item, Damage), "one picture is inside the filter, damage follows it"
            yield item


class _Bwdif:
    """The filter for one shape of frames: each comes out when the next has come in."""

    def __init__(self, like: VideoFrame) -> None:
        from av.filter import Graph

        self._graph = Graph()
        self._graph.threads = 1
        size: dict[str, Any] = {"width": like.width, "height": like.height, "format": like.format}
        self._source = self._graph.add_buffer(**size, time_base=Fraction(1, 1000))
        self._sink = self._graph.add("buffersink")
        # deint=interlaced: progressive frames among the others only lend their lines.
        bwdif = self._graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
        self._graph.link_nodes(self._source, bwdif, self._sink).configure()

    def push(self, frame: VideoFrame | None) -> VideoFrame | None:
        """Takes a frame, or None for the end; gives the one before it, if there is one."""
        import av.error

        self._source.push(frame)
        try:
            return cast("VideoFrame", self._sink.pull())
        except (av.error.BlockingIOError, av.error.EOFError):
            return None
