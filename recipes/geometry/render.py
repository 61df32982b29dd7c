"""Pictures of scenes by ray casting (Open3D's Embree), with exact depth and normals beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from omniloom.modalities.geometry import rays as pixel_rays
from omniloom.modalities.models._open3d import open3d
from omniloom.recipes.geometry import textures
from omniloom.recipes.geometry.scene import Camera, Light, Material, Scene, Solid

_AWAY = 1e-3
"""Rays that leave a surface start this part of their distance to the camera above it, against shadows of itself."""
_OCCLUSION_RAYS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What a camera sees and the truth about it."""

    linear: np.ndarray
    """float32 (H, W, 3), light without a camera's faults; see `sensor.expose`."""
    z: np.ndarray
    """float64 (H, W), metres along the optical axis; inf where nothing is hit."""
    normal: np.ndarray
    """float32 (H, W, 3), geometric, unit, OpenCV camera axes, facing the camera; 0 where nothing is hit."""
    k: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Hits:
    z: np.ndarray
    """float64 (N,), in units of the ray's direction; inf for a miss."""
    face: np.ndarray
    place: np.ndarray
    """float32 (N, 3); anything for a miss."""
    normal: np.ndarray
    """float32 (N, 3), facing the ray's start."""

    @property
    def hit(self) -> np.ndarray:
        return np.isfinite(self.z)


class Renderer:
    """A scene ready to be looked at."""

    def __init__(self, scene: Scene) -> None:
        """Builds the search tree: about a millisecond for each 3,000 triangles."""
        self._light = _single(scene.light)
        counts = [len(faces) for _, faces in scene.meshes]
        starts = np.cumsum([0, *(len(vertices) for vertices, _ in scene.meshes)])
        vertices = np.concatenate([vertices for vertices, _ in scene.meshes]).astype(np.float32)
        faces = np.concatenate([faces + start for (_, faces), start in zip(scene.meshes, starts, strict=False)])
        self._solid_of_face = np.repeat(np.arange(len(counts)), counts)
        # The truth is of the single-precision corners that the caster sees.
        a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        self._corner, self._normal = a, normal / np.where(length > 0, length, 1)
        turns = np.stack([turn for turn, _ in scene.frames])
        self._turns = turns.astype(np.float32)
        self._places = np.stack([place for _, place in scene.frames]).astype(np.float32)
        # Paper is laid on from the side that a face shows most.
        local = np.einsum("fj,fji->fi", self._normal, turns[self._solid_of_face])
        self._side_of_face = np.abs(local).argmax(axis=1)
        materials = scene.materials
        self._base = np.stack([material.base for material in materials]).astype(np.float32)
        self._mix = np.stack([material.mix for material in materials]).astype(np.float32)
        self._paper = np.array([m.texture if isinstance(m.texture, int) else -1 for m in materials])
        self._per_m = np.array([1 / m.repeat_m for m in materials], np.float32)
        self._gloss, self._mirror, self._glow = (
            np.array([getattr(m, name) for m in materials], np.float32) for name in ("gloss", "mirror", "glow")
        )
        self._solids = _by_solid_texture(materials)
        o3d = open3d()
        self._tensor = o3d.core.Tensor
        self._caster: Any = o3d.t.geometry.RaycastingScene(nthreads=1)
        self._caster.add_triangles(self._tensor(vertices), self._tensor(faces.astype(np.uint32)))

    def depth(self, camera: Camera, step: int = 1) -> np.ndarray:
        """Exact z float64 (H / step, W / step) of every step-th pixel: enough to judge where a camera stands."""
        directions = _directions(camera)[::step, ::step]
        return self._cast(camera.at, directions.reshape(-1, 3)).z.reshape(directions.shape[:2])

    def truth(self, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Exact z float64 (H, W) and normals float32 (H, W, 3) without the light; as in `Picture`."""
        directions = _directions(camera)
        hits = self._cast(camera.at, directions.reshape(-1, 3))
        return hits.z.reshape(directions.shape[:2]), _in_camera(hits, camera)

    def picture(self, camera: Camera, rng: np.random.Generator) -> Picture:
        """One picture; `rng` places the rays that look for ambient light."""
        directions = _directions(camera)
        height, width = directions.shape[:2]
        hits = self._cast(camera.at, directions.reshape(-1, 3))
        ambient = self._openness(hits, rng, (height, width))
        flat = directions.reshape(-1, 3)
        linear = self._shade(flat, hits, ambient, camera.k[0, 0]).reshape(height, width, 3)
        normal = _in_camera(hits, camera)
        z = hits.z.reshape(height, width)
        # Pixels on edges are mixed of several rays, as in a camera; depth and normals are those of the centre.
        rows, columns = np.nonzero(_edges(z, normal, hits.face.reshape(height, width), self._solid_of_face))
        if len(rows):
            total, middle = linear[rows, columns].copy(), ambient[rows * width + columns]
            for du, dv in ((-0.3, -0.15), (0.15, -0.3), (0.0, 0.33)):
                shift = camera.turn @ np.array([du / camera.k[0, 0], dv / camera.k[1, 1], 0])
                moved = directions[rows, columns] + shift
                total += self._shade(moved, self._cast(camera.at, moved), middle, camera.k[0, 0])
            linear[rows, columns] = total / 4
        return Picture(linear, z, normal, camera.k)

    def _cast(self, start: np.ndarray, directions: np.ndarray) -> _Hits:
        """First hits of rays; `start` (3,) or (N, 3)."""
        start = np.broadcast_to(start, directions.shape)
        query = self._tensor(np.concatenate([start, directions], axis=1, dtype=np.float32))
        answer = self._caster.cast_rays(query, nthreads=1)
        rough, face = answer["t_hit"].numpy(), answer["primitive_ids"].numpy().astype(np.int64)
        hit = np.isfinite(rough)
        face = np.where(hit, face, 0)
        normal = self._normal[face]
        # Embree's single precision, replaced by the ray's exact meeting with the triangle's plane.
        towards = np.einsum("nd,nd->n", normal, directions)
        with np.errstate(divide="ignore", invalid="ignore"):
            exact = np.einsum("nd,nd->n", normal, self._corner[face] - start) / towards
        close = np.abs(exact - rough) < 1e-4 * rough
        z = np.where(hit, np.where(close, exact, rough), np.inf)
        place = start + np.where(hit, z, 0)[:, None] * directions
        facing = np.where(towards[:, None] > 0, -normal, normal)
        return _Hits(z, face, place.astype(np.float32), facing.astype(np.float32))

    def _blocked(self, hits: _Hits, towards: np.ndarray, reach: float | np.ndarray) -> np.ndarray:
        """Whether something stands within `reach` (in units of `towards`) of each hit; bool (N,)."""
        lift = _AWAY * np.minimum(hits.z, 30)[:, None].astype(np.float32)
        start = hits.place + hits.normal * np.where(np.isfinite(lift), lift, 0)
        if isinstance(reach, np.ndarray):
            towards, reach = towards * reach[:, None], 1.0
        rays = np.concatenate([start, np.broadcast_to(towards, start.shape)], axis=1, dtype=np.float32)
        return self._caster.test_occlusions(self._tensor(rays), tnear=0.0, tfar=float(reach), nthreads=1).numpy()

    def _openness(self, hits: _Hits, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        """How much of its surroundings each place sees, float32 (N,): a few rays, averaged over 4x4 pixels."""
        reach = float(np.clip(0.5 * np.median(hits.z[hits.hit]), 0.3, 20)) if hits.hit.any() else 1.0
        tile = rng.normal(size=(_OCCLUSION_RAYS, 4, 4, 3)).astype(np.float32)
        tile /= np.linalg.norm(tile, axis=-1, keepdims=True)
        height, width = size
        seen = np.zeros(height * width, np.float32)
        for ray in tile:
            around = np.tile(ray, (height // 4 + 1, width // 4 + 1, 1))[:height, :width].reshape(-1, 3)
            towards = hits.normal + 0.98 * around  # cosine-weighted
            seen += ~self._blocked(hits, towards, reach)
        return _mean4((seen / len(tile)).reshape(size)).reshape(-1)

    def _shade(
        self, directions: np.ndarray, hits: _Hits, openness: np.ndarray, focal_px: float, *, mirrored: bool = False
    ) -> np.ndarray:
        """Light that comes along rays, float32 (N, 3); what a mirror shows has no shadows."""
        light = self._light
        view = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
        out = np.empty_like(view)
        hit = hits.hit
        out[~hit] = _sky(light, view[~hit])
        index = np.nonzero(hit)[0]
        if not len(index):
            return out
        near = _Hits(hits.z[index], hits.face[index], hits.place[index], hits.normal[index])
        view, openness = view[index], openness[index]
        solid = self._solid_of_face[near.face]
        distance = (near.z * np.linalg.norm(directions[index], axis=1)).astype(np.float32)
        facing = np.maximum(-(near.normal * view).sum(1), 0.05)
        colour = self._colour(near, solid, distance / (np.float32(focal_px) * np.sqrt(facing)))
        up = 0.5 + 0.5 * near.normal[:, 2:]
        lit = (up * light.above + (1 - up) * light.below) * openness[:, None]
        shine = np.zeros_like(lit)
        gloss = self._gloss[solid][:, None]
        power = 2 ** (2 + 7 * gloss)
        sources: list[tuple[np.ndarray, np.ndarray, float | np.ndarray]] = []
        if light.sun.max() > 0:
            sources.append((np.broadcast_to(light.towards_sun.astype(np.float32), view.shape), light.sun, 1e6))
        for place, strength in light.lamps:
            way = place.astype(np.float32) - near.place
            far = np.linalg.norm(way, axis=1)
            sources.append((way / far[:, None], strength / (0.05 + far[:, None] ** 2), 0.98 * far))
        for towards, strength, reach in sources:
            cosine = np.maximum((near.normal * towards).sum(1), 0)[:, None]
            if not mirrored:
                cosine = cosine * ~self._blocked(near, towards, reach)[:, None]
            lit = lit + cosine * strength
            half = towards - view
            half = half / np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-6)
            spot = np.maximum((near.normal * half).sum(1), 0)[:, None] ** power
            shine = shine + (cosine > 0) * spot * strength * gloss * (0.1 + 0.02 * power)
        shown = colour * (lit + self._glow[solid][:, None]) + shine
        if not mirrored:
            shown = self._mirrored(shown, near, view, solid, facing)
        if np.isfinite(light.fog_m):
            clear = np.exp(-distance / light.fog_m)[:, None]
            shown = shown * clear + light.horizon.astype(np.float32) * (1 - clear)
        out[index] = shown
        return out

    def _mirrored(
        self, shown: np.ndarray, near: _Hits, view: np.ndarray, solid: np.ndarray, facing: np.ndarray
    ) -> np.ndarray:
        mirror, gloss = self._mirror[solid], self._gloss[solid]
        part = mirror + np.maximum(0.6 * gloss - mirror, 0) * (1 - facing) ** 5
        index = np.nonzero(part > 0.02)[0]
        if not len(index):
            return shown
        normal, view = near.normal[index], view[index]
        back = view - 2 * (view * normal).sum(1, keepdims=True) * normal
        start = near.place[index] + normal * (_AWAY * np.minimum(near.z[index], 30)[:, None])
        seen = self._cast(start, back)
        share = part[index, None].astype(np.float32)
        shown = shown.copy()
        reflected = self._shade(back, seen, np.full(len(back), 0.8, np.float32), 60.0, mirrored=True)
        shown[index] = shown[index] * (1 - share) + reflected * share
        return shown

    def _colour(self, hits: _Hits, solid: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
        local = np.einsum("nj,nji->ni", hits.place - self._places[solid], self._turns[solid])
        values = np.empty((len(solid), 3), np.float32)
        paper = self._paper[solid]
        flat = np.nonzero(paper >= 0)[0]
        if len(flat):
            side = self._side_of_face[hits.face[flat]]
            u = np.where(side == 0, local[flat, 1], local[flat, 0])
            v = np.where(side == 2, local[flat, 1], -local[flat, 2])
            per_m = self._per_m[solid[flat]]
            uv = np.stack([u, v], axis=1) * per_m[:, None]
            values[flat] = textures.sample(paper[flat], uv, footprint_m[flat] * per_m * textures.SIDE)
        for texture, users in self._solids:
            chosen = np.nonzero(users[solid])[0]
            if len(chosen):
                values[chosen] = texture(local[chosen], footprint_m[chosen])
        return np.clip(self._base[solid] + np.einsum("nij,nj->ni", self._mix[solid], values), 0.01, 1)


def _single(light: Light) -> Light:
    """The same light in single precision: a double among the factors would make doubles of whole pictures."""
    names = ("sun", "towards_sun", "above", "horizon", "below")
    colours = {name: np.asarray(getattr(light, name), np.float32) for name in names}
    lamps = tuple((place.astype(np.float32), strength.astype(np.float32)) for place, strength in light.lamps)
    return replace(light, **colours, lamps=lamps)


def _by_solid_texture(materials: list[Material]) -> list[tuple[Solid, np.ndarray]]:
    found: dict[int, tuple[Solid, np.ndarray]] = {}
    for number, material in enumerate(materials):
        if not isinstance(material.texture, int):
            entry = found.setdefault(id(material.texture), (material.texture, np.zeros(len(materials), bool)))
            entry[1][number] = True
    return list(found.values())


def _directions(camera: Camera) -> np.ndarray:
    """World directions (H, W, 3) whose length along the optical axis is 1, so that a ray's parameter is z."""
    return pixel_rays(camera.k, camera.width, camera.height) @ camera.turn.T


def _in_camera(hits: _Hits, camera: Camera) -> np.ndarray:
    normal = hits.normal @ camera.turn.astype(np.float32)
    normal[~hits.hit] = 0
    return normal.reshape(camera.height, camera.width, 3)


def _sky(light: Light, view: np.ndarray) -> np.ndarray:
    height = view[:, 2:]
    high = np.clip(height, 0, 1) ** 0.6
    sky = light.horizon * (1 - high) + light.above * high
    sky = np.where(height < 0, light.horizon * (1 + np.maximum(2 * height, -0.5)), sky)
    over = np.nonzero(height[:, 0] > 0.02)[0]
    if len(over) and light.sun.max() > 0:
        uv = 0.15 * view[over, :2] / (height[over] + 0.1)
        thick = textures.sample(np.full(len(over), light.clouds), uv, np.full(len(over), 1.5))[:, :1]
        cover = np.clip(thick * 1.6 - 0.5, 0, 1) * np.clip(height[over] * 5, 0, 1)
        sky[over] = sky[over] * (1 - cover) + cover * 1.3 * light.horizon.max()
        disc = (view[over] @ light.towards_sun)[:, None] > 0.9994
        sky[over] += disc * 5 * light.sun
    return sky.astype(np.float32)


def _edges(z: np.ndarray, normal: np.ndarray, face: np.ndarray, solid_of_face: np.ndarray) -> np.ndarray:
    """Pixels that differ from a neighbour in solid, direction or depth; bool (H, W)."""
    inverse = 1 / z
    solid = np.where(np.isfinite(z), solid_of_face[face], -1)
    out = np.zeros(z.shape, bool)
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differ = (
            (solid[near] != solid[far])
            | ((normal[near] * normal[far]).sum(-1) < 0.9) & np.isfinite(z[near])
            | (np.abs(inverse[near] - inverse[far]) > 0.08 * np.maximum(inverse[near], inverse[far]))
        )
        out[near] |= differ
        out[far] |= differ
    return out


def _mean4(values: np.ndarray) -> np.ndarray:
    """Mean over 4x4 neighbours of float32 (H, W)."""
    padded = np.pad(values, ((2, 1), (2, 1)), mode="edge")
    rows = padded[:-3] + padded[1:-2] + padded[2:-1] + padded[3:]
    return (rows[:, :-3] + rows[:, 1:-2] + rows[:, 2:-1] + rows[:, 3:]) / 16
