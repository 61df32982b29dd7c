"""Tells from packets' timestamps which pictures nobody wants, before they are decoded."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from omniloom.modalities.sample import to_ns

Wants = Callable[[int, int], bool]
"""Whether anybody needs the picture on screen during [start_ns, end_ns). Asked once a picture, in order."""


class Foresight:
    """Holds packets back until it is known how long their pictures stay on screen, and asks who wants those.

    A picture lasts until the next one, and no packet is presented before it is decoded (pts >= dts): once a packet's
    dts has passed a time, every picture up to that time is known. So few packets wait, about as many as the codec
    reorders. Where timestamps do not keep to that rule, everything counts as wanted from there on.
    """

    def __init__(self, wants: Wants, time_base: Fraction, from_pts: int | None = None) -> None:
        self._wants = wants
        self._time_base = time_base
        self._from_pts = from_pts
        """Pictures before this one are left out of account: they are not shown."""
        self._waiting: deque[Any] = deque()
        self._times: list[int] = []
        self._last: int | None = None
        """The latest picture whose predecessors are all known; its end is not."""
        self._wanted: dict[int, bool] = {}
        self._unshown: deque[int] = deque()
        """Times of foreseen pictures that have not left the decoder, in order."""
        self._blind = False

    def packets(self, packets: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
        """Each item with whether it must be decoded. What is no packet with both timestamps passes through."""
        for packet in packets:
            pts, dts = getattr(packet, "pts", None), getattr(packet, "dts", None)
            if pts is None or dts is None or pts < dts or self._blind:
                last = not getattr(packet, "size", 0)  # the decoder is to give what it holds, or the file broke off
                yield from self._settle_all()
                self._blind = self._blind or not last
                yield packet, True
                continue
            self._waiting.append(packet)
            if self._is_shown(packet):
                heapq.heappush(self._times, pts)
            self._settle(dts)
            yield from self._certain()
        yield from self._settle_all()

    def give_up(self) -> None:
        """From here on every picture is wanted."""
        self._blind = True

    def skipped_before(self, pts: int | None) -> Iterator[int]:
        """Times of pictures left out before the one that has left the decoder now; None: before the end."""
        while self._unshown and (pts is None or self._unshown[0] <= pts):
            at = self._unshown.popleft()
            if at != pts and not self._wanted.get(at, True):
                yield at
            self._wanted.pop(at, None)

    def _settle(self, dts: int) -> None:
        while self._times and self._times[0] <= dts:
            pts = heapq.heappop(self._times)
            if self._last is not None:
                if pts <= self._last:
                    self._blind = True
                    return
                span = to_ns(self._last, self._time_base), to_ns(pts, self._time_base)
                self._wanted[self._last] = self._wants(*span)
                self._unshown.append(self._last)
            self._last = pts

    def _certain(self) -> Iterator[tuple[Any, bool]]:
        while self._waiting:
            packet = self._waiting[0]
            certain = self._blind or not self._is_shown(packet)
            if not certain and packet.pts not in self._wanted:
                return
            self._waiting.popleft()
            yield packet, certain or self._wanted[packet.pts]

    def _is_shown(self, packet: Any) -> bool:
        """Edit lists leave pictures out that others are made from, and so does beginning in the middle."""
        return not packet.is_discard and (self._from_pts is None or packet.pts >= self._from_pts)

    def _settle_all(self) -> Iterator[tuple[Any, bool]]:
        if self._waiting and not self._blind:
            self._settle(2**63)
            if self._last is not None:
                self._wanted[self._last] = True  # nobody knows how long the last one lasts
        yield from self._certain()
