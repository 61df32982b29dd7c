"""The demo world keeps its promises: the same bytes again, unseen pairs, exact depth, sound on the picture's clock."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from omniloom.recipes.world import make_reel, make_world
from omniloom.recipes.world.files import FARTHEST_M, encode_mp4, write_scene
from omniloom.recipes.world.motion import (
    FPS,
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    camera_pose,
    hit_times_s,
    intrinsics,
    thing_pose,
)
from omniloom.recipes.world.narrate import sentence, speak
from omniloom.recipes.world.render import GROUND, RGB, SKY, WALL, WALL_M, frames, pixel_rays, snapshot, trace
from omniloom.recipes.world.scene import (
    AMBIENCES,
    BACKDROPS,
    CAMERA_MOVES,
    COLOURS,
    GROUNDS,
    HELD_OUT_COLOURS,
    HELD_OUT_MOTIONS,
    MOTIONS,
    SHAPES,
    TEXTURES,
    Scene,
    Shape,
    compose,
)
from omniloom.recipes.world.sound import SAMPLE_RATE_HZ, mix, voice
from omniloom.recipes.world.words import captions


def scenes(split: str, count: int, seed: int = 0) -> Iterator[Scene]:
    assert split in ("train", "test")
    return (compose(seed, "train" if split == "train" else "test", index) for index in range(count))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_clip_has_the_same_bytes_in_a_larger_world_and_with_more_workers(tmp_path: Path) -> None:
    make_world(tmp_path / "a", num_train=1, num_test=1, seed=5, jobs=1)
    told: list[tuple[int, int]] = []
    make_world(
        tmp_path / "b", num_train=2, num_test=1, seed=5, jobs=2, on_done=lambda n, total: told.append((n, total))
    )
    small, large = bytes_of(tmp_path / "a"), bytes_of(tmp_path / "b")
    small.pop("sources.csv")
    assert len(small) == 6
    assert small == {name: large[name] for name in small}
    assert told == [(n, 3) for n in range(1, 4)]
    rows = list(csv.DictReader(io.StringIO(large["sources.csv"].decode())))
    assert [row["split"] for row in rows] == ["train"] * 2 + ["test"]
    assert all((tmp_path / "b" / row["path"]).is_file() for row in rows)


def test_another_seed_gives_another_clip() -> None:
    assert compose(0, "train", 3) != compose(1, "train", 3)
    assert compose(0, "train", 3).things != compose(0, "test", 3).things


def test_no_held_out_pair_is_ever_seen_in_training() -> None:
    for scene in scenes("train", 3000):
        for thing in scene.things:
            assert (thing.shape, thing.colour) not in HELD_OUT_COLOURS
            assert (thing.shape, thing.motion) not in HELD_OUT_MOTIONS


def test_every_test_scene_leads_with_an_unseen_pair_of_values_that_were_each_seen() -> None:
    train = list(scenes("train", 400))
    for field, values in (("shape", SHAPES), ("colour", COLOURS), ("motion", MOTIONS), ("texture", TEXTURES)):
        assert {getattr(thing, field) for scene in train for thing in scene.things} == set(values)
    for field, values in (
        ("ground", GROUNDS), ("backdrop", BACKDROPS), ("camera", CAMERA_MOVES), ("ambience", AMBIENCES),
    ):  # fmt: skip
        assert {getattr(scene, field) for scene in train} == set(values)
    assert all(scene.things[0].held_out for scene in scenes("test", 400))


def test_some_clips_are_silent_and_some_narrated() -> None:
    world = list(scenes("train", 2000))
    assert 0.09 < np.mean([scene.silent for scene in world]) < 0.15
    assert 0.23 < np.mean([sentence(scene) is not None for scene in world]) < 0.32
    assert not any(scene.silent and (scene.narrated or scene.unseen or mix(scene) is not None) for scene in world[:200])


# --- depth -----------------------------------------------------------------------------------------------------


def implicit(shape: Shape, p: np.ndarray) -> np.ndarray:
    """Zero on the surface, in units of the radius: written from the shapes' definitions, not from the ray formulas."""
    x, y, z = p
    match shape:
        case "sphere":
            return np.sqrt(x * x + y * y + z * z) - 1
        case "cube":
            return np.abs(p).max(0) - 0.8
        case "cylinder":
            return np.maximum(np.hypot(x, z) - 0.75, np.abs(y) - 0.9)
        case "cone":
            return np.maximum(np.hypot(x, z) - (y + 0.95) / 1.9, y - 0.95)
        case "torus":
            return np.hypot(np.hypot(x, y) - 0.75, z) - 0.3
        case "pyramid":
            return np.maximum(np.maximum(np.abs(x), np.abs(z)) - 0.95 * (y + 0.85) / 1.7, y - 0.85)
        case "capsule":
            return np.sqrt(x * x + (y - np.clip(y, -0.55, 0.55)) ** 2 + z * z) - 0.55
        case "diamond":
            return np.abs(x) + 0.8 * np.abs(y) + np.abs(z) - 0.96


def test_unprojected_depth_lies_on_the_true_surfaces() -> None:
    K = intrinsics()
    seen: set[str] = set()
    for scene in scenes("test", 16):
        for time_s in (0.0, 1.5, 3.5):
            hits = trace(snapshot(scene, time_s), pixel_rays(np.float64))
            v, u = np.divmod(np.arange(WIDTH * HEIGHT), WIDTH)
            assert (np.isinf(hits.depth_m) == (hits.what == SKY)).all()
            known = hits.what != SKY
            depth = hits.depth_m[known]
            points = np.linalg.inv(K) @ np.stack([u, v, np.ones_like(u)])[:, known] * depth
            rotation, eye = camera_pose(scene, time_s)
            world = rotation @ points + eye[:, None]
            what = hits.what[known]
            assert (np.abs(world[1, what == GROUND]) < 1e-9 * depth[what == GROUND]).all()
            assert (np.abs(world[2, what == WALL] - WALL_M) < 1e-9 * WALL_M).all()
            for index, thing in enumerate(scene.things):
                turn, centre = thing_pose(thing, time_s)
                own = what == index
                off = implicit(thing.shape, turn.T @ (world[:, own] - centre[:, None]) / thing.radius_m)
                assert (np.abs(off) * thing.radius_m < 1e-6 * depth[own]).all(), thing.shape
                seen.add(thing.shape if own.sum() > 50 else "")
    assert seen >= set(SHAPES)


def test_nothing_stands_in_front_of_what_the_depth_shows() -> None:
    """March along every ray up to its hit: no object may be entered on the way."""
    for scene in scenes("train", 6):
        shot = snapshot(scene, 1.0)
        rays = pixel_rays(np.float64)[:, ::7]
        depth = np.minimum(trace(shot, rays).depth_m, 20.0)
        rotation, eye = shot.camera
        for share in np.linspace(0.02, 0.999, 200):
            world = rotation @ (rays * depth * share) + eye[:, None]
            for thing, (turn, centre) in zip(scene.things, shot.things, strict=True):
                inside = implicit(thing.shape, turn.T @ (world - centre[:, None]) / thing.radius_m)
                assert inside.min() > -1e-2, thing.shape


def test_stored_depth_is_the_exact_depth_in_millimetres_at_frame_times(tmp_path: Path) -> None:
    scene = compose(0, "test", 0)
    write_scene(scene, tmp_path)
    with np.load(tmp_path / "000000.depth.npz", allow_pickle=False) as stored:
        depth_mm, pts_ns, K, kind = stored["depth_mm"], stored["pts_ns"], stored["K"], str(stored["kind"])
    assert (depth_mm.dtype, depth_mm.shape, kind) == (np.uint16, (8, HEIGHT, WIDTH), "z")
    np.testing.assert_array_equal(pts_ns, np.arange(8) * 500_000_000)
    np.testing.assert_array_equal(K, intrinsics())
    for number in (0, 3):
        exact = trace(snapshot(scene, number / 2), pixel_rays(np.float64)).depth_m.reshape(HEIGHT, WIDTH)
        known = depth_mm[number] > 0
        assert np.abs(depth_mm[number][known] / 1000 - exact[known]).max() <= 0.0005001
        assert (exact[~known] > FARTHEST_M).all()


# --- sound -----------------------------------------------------------------------------------------------------


def onsets_s(sound: np.ndarray, least: float = 0.3, rest_s: float = 0.3) -> np.ndarray:
    """When the sound first passes a share of its peak after some rest."""
    loud = np.flatnonzero(np.abs(sound) > least * np.abs(sound).max()) / SAMPLE_RATE_HZ
    return loud[np.concatenate([[True], np.diff(loud) > rest_s])]


def bouncers() -> Iterator[tuple[Scene, int]]:
    for scene in scenes("train", 2000):
        for place, thing in enumerate(scene.things):
            if thing.motion == "bouncing" and thing.sounds and thing.phase_s < 0.9 * thing.period_s:
                yield scene, place


def test_a_bounce_is_heard_when_it_is_seen() -> None:
    for scene, place in itertools.islice(bouncers(), 8):
        thing = scene.things[place]
        time_s = np.arange(0, 4, 0.001)
        height = np.array([-thing_pose(thing, t)[1][1] for t in time_s])
        low = np.flatnonzero((height[1:-1] < height[:-2]) & (height[1:-1] <= height[2:])) + 1
        heard = onsets_s(voice(thing, np.random.default_rng(0)))
        np.testing.assert_allclose(hit_times_s(thing), time_s[low], atol=0.0011)
        assert len(heard) == len(low)
        assert np.abs(heard - time_s[low]).max() < 0.006, (thing, heard - time_s[low])


def test_a_bounce_keeps_its_time_through_the_encoder() -> None:
    scene, place = next(
        (s, p) for s, p in bouncers()
        if not s.narrated and s.unseen is None and s.ambience == "quiet" and sum(t.sounds for t in s.things) == 1
    )  # fmt: skip
    sound = mix(scene)
    assert sound is not None
    data = encode_mp4([np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * NUM_FRAMES, sound)
    with av.open(io.BytesIO(data), "r") as box:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in box.decode(audio=0)])
    assert np.abs(onsets_s(heard) - hit_times_s(scene.things[place])).max() < 0.010


def test_size_and_motion_set_pitch_and_rhythm() -> None:
    def strongest_hz(sound: np.ndarray) -> float:
        return float(np.argmax(np.abs(np.fft.rfft(sound)))) * SAMPLE_RATE_HZ / len(sound)

    rising = next(t for s in scenes("train", 500) for t in s.things if t.motion == "rising" and t.shape == "sphere")
    sound = voice(rising, np.random.default_rng(0))
    quarter = len(sound) // 4
    assert strongest_hz(sound[-quarter:]) > 1.5 * strongest_hz(sound[:quarter])
    near = next(t for s in scenes("train", 500) for t in s.things if t.motion == "approaching")
    sound = voice(near, np.random.default_rng(0))
    assert np.abs(sound[-quarter:]).mean() > 5 * np.abs(sound[:quarter]).mean()


def test_the_narrator_says_the_same_thing_the_same_way() -> None:
    first, second = speak("The train to Paris leaves at four."), speak("The train to Paris leaves at four.")
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert 1.0 < len(first) / SAMPLE_RATE_HZ < 4.0


# --- words and files ---------------------------------------------------------------------------------------------


def test_a_test_caption_identifies_its_clip() -> None:
    written = [captions(scene) for scene in scenes("test", 300)]
    for kind in ("visual", "omni"):
        for variant in range(3):
            assert len({caption[kind][variant] for caption in written}) == 300
    assert all(len({*caption["omni"]}) == 3 for caption in written)


def test_captions_name_what_the_labels_hold() -> None:
    for scene in scenes("train", 200):
        words = captions(scene)
        for text in words["visual"] + words["omni"]:
            assert all(f" {thing.colour} " in text for thing in scene.things), text
            assert text.endswith(".")
        assert bool(words["audio"]) is not scene.silent
        said = sentence(scene)
        if said is not None:
            assert all(said.rstrip(".?") in text for text in words["audio"] + words["omni"])
            assert not any(said.rstrip(".?") in text for text in words["visual"])


def test_objects_have_the_colour_their_label_says() -> None:
    right = total = 0
    for scene in scenes("train", 60):
        if scene.backdrop in ("sunset", "night"):
            continue  # tinted light
        picture = next(frames(scene)).reshape(-1, 3).astype(float)
        what = trace(snapshot(scene, 0.0), pixel_rays()).what
        for index, thing in enumerate(scene.things):
            if thing.texture == "plain" and (what == index).sum() > 80:
                mean = picture[what == index].mean(0)
                named = {name: np.array(rgb) for name, rgb in RGB.items()}
                best = max(
                    named, key=lambda n: float(mean @ named[n] / np.linalg.norm(mean) / np.linalg.norm(named[n]))
                )
                right, total = right + (best == thing.colour), total + 1
    assert total > 15
    assert right / total > 0.9


@pytest.mark.parametrize("silent", [False, True])
def test_a_written_clip_is_what_its_labels_say(tmp_path: Path, silent: bool) -> None:
    scene = next(s for s in scenes("test", 300) if s.silent == silent and s.narrated != silent)
    write_scene(scene, tmp_path)
    stem = f"{scene.index:06d}"
    said = json.loads((tmp_path / f"{stem}.json").read_text("utf-8"))
    assert said["labels"]["silent"] is silent
    assert [thing["shape"] for thing in said["labels"]["things"]] == [thing.shape for thing in scene.things]
    with av.open(str(tmp_path / f"{stem}.mp4")) as box:
        assert [s.codec_context.name for s in box.streams] == (["h264"] if silent else ["h264", "aac"])
        video = box.streams.video[0]
        assert (video.width, video.height, video.average_rate, box.duration) == (WIDTH, HEIGHT, FPS, 4_000_000)
        times = [frame.time for frame in box.decode(video)]
    np.testing.assert_allclose(times, np.arange(NUM_FRAMES) / FPS, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{stem}.depth.npz", f"{stem}.json", f"{stem}.mp4"]


def test_a_reel_changes_its_picture_at_the_cuts_it_reports(tmp_path: Path) -> None:
    cuts_ns = make_reel(tmp_path / "reel.mp4", num_shots=4, seed=1)
    with av.open(str(tmp_path / "reel.mp4")) as box:
        shown = [(frame.time or 0.0, frame.to_ndarray(format="gray").astype(float)) for frame in box.decode(video=0)]
    change = [float(np.abs(b - a).mean()) for (_, a), (_, b) in itertools.pairwise(shown)]
    largest = sorted(np.argsort(change)[-3:] + 1)
    np.testing.assert_allclose([shown[n][0] for n in largest], np.array(cuts_ns) / 1e9, atol=1e-6)
    assert json.loads((tmp_path / "reel.json").read_text("utf-8"))["labels"]["cuts_ns"] == list(cuts_ns)


def test_a_world_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs clips"):
        make_world(tmp_path, num_train=0, num_test=0)
