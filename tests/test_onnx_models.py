"""Any ONNX depth or normal network that a card describes: fed as it wants, its numbers put in our units and axes.

Most networks here give back the picture they were fed, so that a test can draw the very answer it wants converted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from omniloom.modalities import geometry
from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import _card, depth_onnx
from omniloom.modalities.models.estimate import Estimate
from tests.onnx_files import node, write

TCMONODEPTH = Path(__file__).parents[2] / "shared/data/tcmonodepth_tcsmallnet_192x320.onnx"
RNG = np.random.default_rng(0)
K = geometry.intrinsics(70.0, 70.0, 39.5, 29.5)


def mirror(path: Path, image: Any = ("n", 3, "h", "w"), half: bool = False) -> Path:
    """Depth is the red of what it was fed, normals are all three colours."""
    nodes = [node("Gather", ["image", "zero"], "depth", axis=1), node("Identity", ["image"], "normal")]
    return write(path, nodes, image, ["depth", "normal"], {"zero": np.array(0, np.int64)}, half)


def asked(path: Path, rgb: np.ndarray, k: np.ndarray | None = None, **card: Any) -> Estimate:
    path.with_suffix(".yaml").write_text(yaml.safe_dump(card))
    return depth_onnx.load(ModelRef("depth_onnx", str(path)))(rgb, k)


def pictures(frames: int = 1) -> np.ndarray:
    """uint8 (frames, 60, 80, 3), never 0."""
    return RNG.integers(1, 255, (frames, 60, 80, 3), dtype=np.uint8)


def ramp() -> np.ndarray:
    """Red grows to the right, green downwards, both 3 a pixel: what is moved by a pixel is found."""
    v, u = np.mgrid[0:60, 0:80]
    return np.stack([3 * u, 3 * v, u + v], axis=-1).astype(np.uint8)[None]


AS_IS = {"size": [80, 60]}
DEPTH = {"name": "depth", "kind": "metric-z"}


# --- what goes in ---------------------------------------------------------------------------------------------


def test_colours_are_scaled_and_normalised_as_the_card_says(tmp_path: Path) -> None:
    path, rgb = mirror(tmp_path / "net.onnx"), pictures()
    card: dict[str, Any] = {
        **AS_IS,
        "scale": 0.5,
        "mean": [3, 40, 5],
        "std": [0.25, 2, 4],
        "output": "relative-inverse",
    }
    assert np.allclose(asked(path, rgb, **card).depth, (rgb[..., 0] * 0.5 - 3) / 0.25)
    swapped = asked(path, rgb, **card, channels="bgr")
    assert np.allclose(swapped.depth, (rgb[..., 2] * 0.5 - 3) / 0.25)


@pytest.mark.parametrize(
    "card",
    [
        {"size": [80, 60]},
        {"size": [160, 60]},
        {"size": [160, 160], "fit": "pad"},
        {"size": [96, 200], "fit": "pad"},
        {"short_side": 120, "multiple_of": 8},
        {"short_side": 96, "multiple_of": 32},
    ],
)
def test_an_answer_lies_on_the_pixels_it_is_about(tmp_path: Path, card: dict[str, Any]) -> None:
    answer = asked(mirror(tmp_path / "net.onnx"), ramp(), **card, output="relative")
    assert answer.depth is not None
    inner = np.abs(answer.depth[0] - ramp()[0, ..., 0])[4:-4, 4:-4]
    assert inner.max() < 0.75, "a pixel is 3"


def test_networks_of_any_size_see_the_pictures_shape_in_whole_multiples() -> None:
    card = _card.Card(short_side=192, multiple_of=32)
    assert depth_onnx._fitted(341, 256, (), card) == (256, 192, 0, 0, 0, 0)
    assert depth_onnx._fitted(1920, 1080, (), card) == (352, 192, 0, 0, 0, 0)
    assert depth_onnx._fitted(240, 426, (), card) == (192, 352, 0, 0, 0, 0)
    padded = _card.Card(size=(1064, 616), fit="pad")
    assert depth_onnx._fitted(640, 480, (1064, 616), padded) == (821, 616, 121, 0, 122, 0)


def test_margins_have_the_colour_that_the_card_states(tmp_path: Path) -> None:
    rgb = pictures()[0]
    card = _card.Card(size=(100, 60), fit="pad", fill=(1, 2, 3))
    fed = depth_onnx._fed(rgb, (80, 60), (10, 0, 10, 0), card)
    assert np.array_equal(fed[:, :, 10:90].transpose(1, 2, 0), rgb)
    assert (fed[:, :, :10] == np.array([1, 2, 3])[:, None, None]).all()
    assert (fed[:, :, 90:] == np.array([1, 2, 3])[:, None, None]).all()


def test_what_is_said_of_mirrored_pictures_is_put_back_and_averaged(tmp_path: Path) -> None:
    rgb, slope = pictures(3), np.linspace(0, 40, 80, dtype=np.float32)[None, None, None]
    nodes = [
        node("Add", ["image", "slope"], "tilted"),  # a network that says of every picture that its right is farther
        node("Gather", ["tilted", "zero"], "depth", axis=1),
        node("Identity", ["image"], "normal"),
    ]
    constants = {"zero": np.array(0, np.int64), "slope": slope}
    path = write(tmp_path / "net.onnx", nodes, ("n", 3, 60, 80), ["depth", "normal"], constants)
    axes = {"name": "normal", "axes": ["up", "left", "backward"], "range": [0, 255]}
    once = asked(path, rgb, outputs={"depth": DEPTH, "normal": axes})
    twice = asked(path, rgb, outputs={"depth": DEPTH, "normal": axes}, mirror=True)
    red = rgb[..., 0].astype(np.float32)
    assert once.depth is not None
    assert twice.depth is not None
    assert np.allclose(once.depth, red + slope[0, 0])
    assert np.allclose(twice.depth, red + 20, atol=1e-4), "leaning one way and the other, it leans no way"
    rays = geometry.rays(geometry.assumed_intrinsics(80, 60, 60.0), 80, 60)
    for estimate, sideways in ((once, 0.5), (twice, 0.0)):  # left in the picture, and in its mirror image right
        assert estimate.normals is not None
        untouched = np.einsum("thwc,hwc->thw", estimate.normals, rays) < -0.05  # others were tilted to be seen at all
        assert np.quantile(np.abs(estimate.normals[untouched][:, 0]), 0.5) == pytest.approx(sideways, abs=0.2)
        assert sideways or np.abs(estimate.normals[untouched][:, 0]).max() < 1e-3


@pytest.mark.parametrize(("count", "batch"), [("n", 1), ("n", 3), (1, 1), (3, 3)])
def test_frames_are_answered_one_by_one_or_many_at_once_alike(tmp_path: Path, count: int | str, batch: int) -> None:
    rgb = pictures(7)
    answer = asked(mirror(tmp_path / "net.onnx", (count, 3, 60, 80)), rgb, batch=batch, outputs={"depth": DEPTH})
    assert answer.depth is not None
    assert np.array_equal(answer.depth, rgb[..., 0].astype(np.float32))
    assert depth_onnx.at_once(ModelRef("depth_onnx", str(tmp_path / "net.onnx"))) == batch


def test_a_file_may_take_half_precision(tmp_path: Path) -> None:
    rgb = pictures(2)
    answer = asked(mirror(tmp_path / "half.onnx", half=True), rgb, **AS_IS, output="relative")
    assert np.array_equal(answer.depth, rgb[..., 0])


@pytest.mark.parametrize("axis", [1, 3])
def test_an_axis_of_one_in_the_answer_is_understood_and_other_layouts_are_refused(tmp_path: Path, axis: int) -> None:
    rgb = pictures(2)
    nodes = [node("Gather", ["image", "zero"], "red", axis=1), node("Unsqueeze", ["red", "axis"], "depth")]
    # Transposed without saying how: all axes the other way round.
    nodes += [node("Transpose", ["image"], "normal")]
    constants = {"zero": np.array(0, np.int64), "axis": np.array([axis], np.int64)}
    path = write(tmp_path / "net.onnx", nodes, ("n", 3, "h", "w"), ["depth", "normal"], constants)
    assert np.array_equal(asked(path, rgb, **AS_IS, batch=2, output="relative").depth, rgb[..., 0])
    with pytest.raises(ValueError, match="the network's normal is"):
        asked(path, rgb, **AS_IS, outputs={"normal": {"name": "normal"}})


# --- what comes out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "kind", "expected"),
    [
        ("metric-z", "metric-z", lambda raw: raw / 50),
        ("relative", "relative", lambda raw: raw / 50),
        ("relative-inverse", "relative-inverse", lambda raw: raw / 50),
        ("metric-inverse", "metric-z", lambda raw: 50 / raw),
        ("inverse", "relative", lambda raw: 50 / raw),
    ],
)
def test_every_sense_of_depth_becomes_one_of_ours(tmp_path: Path, stated: str, kind: str, expected: Any) -> None:
    rgb = pictures()
    answer = asked(mirror(tmp_path / "n.onnx"), rgb, **AS_IS, outputs={"depth": {"kind": stated, "factor": 0.02}})
    assert answer.kind == kind
    assert answer.depth is not None
    assert np.allclose(answer.depth, expected(rgb[..., 0].astype(np.float64)), rtol=1e-5)
    assert ("inverse depth to z" in answer.converted) == (stated in {"metric-inverse", "inverse"})


def test_numbers_that_mean_unknown_are_unknown(tmp_path: Path) -> None:
    rgb = pictures()
    rgb[0, 0, 0, 0] = 0
    answer = asked(mirror(tmp_path / "n.onnx"), rgb, **AS_IS, outputs={"depth": {**DEPTH, "valid": [20, 200]}})
    assert answer.depth is not None
    assert np.array_equal(np.isnan(answer.depth), (rgb[..., 0] < 20) | (rgb[..., 0] > 200))
    zero = asked(mirror(tmp_path / "n.onnx"), rgb, **AS_IS, outputs={"depth": DEPTH})
    assert zero.depth is not None
    assert np.isnan(zero.depth[0, 0, 0]), "nothing is 0 m away"


def test_distances_along_rays_become_z_with_the_given_camera(tmp_path: Path) -> None:
    rgb = np.full((2, 60, 80, 3), 100, np.uint8)
    path = mirror(tmp_path / "n.onnx")
    answer = asked(path, rgb, K, **AS_IS, range="ray", outputs={"depth": DEPTH})
    assert answer.depth is not None
    points = geometry.unproject(answer.depth.astype(np.float64), K)
    assert np.abs(np.linalg.norm(points, axis=-1) - 100).max() < 1e-4
    assert answer.converted == "ray distance to z"
    blind = asked(path, rgb, None, **AS_IS, range="ray", outputs={"depth": DEPTH})
    assert blind.converted == "ray distance to z for an assumed 60 degrees of view"
    assert blind.depth is not None
    assert np.allclose(
        blind.depth[0, 0, 0], 100 / np.linalg.norm(geometry.rays(geometry.assumed_intrinsics(80, 60), 80, 60)[0, 0])
    )


def test_a_canonical_camera_is_scaled_by_the_true_focal_length(tmp_path: Path) -> None:
    """Metric3D sees everything as if through f = 1000 pixels; fed at twice the size, f = 70 is 140."""
    rgb = np.full((1, 60, 80, 3), 100, np.uint8)
    path = mirror(tmp_path / "n.onnx")
    card = {"size": [160, 160], "fit": "pad", "canonical_focal": 1000, "outputs": {"depth": DEPTH}}
    answer = asked(path, rgb, K, **card)
    assert answer.depth is not None
    assert answer.kind == "metric-z"
    assert answer.depth[0, 30, 40] == pytest.approx(100 * 140 / 1000)
    unknown = asked(path, rgb, None, **card)
    assert unknown.kind == "relative", "without a camera metres are not known"
    assert "assumed 60 degrees" in unknown.converted
    wide = depth_onnx.load(ModelRef("depth_onnx", str(path), (("fov_deg", 90.0),)))(rgb)
    assert wide.depth is not None
    assert wide.depth[0, 30, 40] == pytest.approx(100 * 2 * 40 / 1000, rel=1e-5), "half of 80 pixels at 45 degrees"


def drawn(n: np.ndarray) -> np.ndarray:
    """A picture whose colours are these three numbers in -1..1, as exactly as bytes can."""
    return np.rint((n + 1) * 127.5).astype(np.uint8)[None]


def slanted() -> np.ndarray:
    """Normals (60, 80, 3) of a plane slanted to all sides, in our axes: left, up and back to the camera."""
    n = np.array([-0.4, -0.5, -0.7])
    return np.broadcast_to(n / np.linalg.norm(n), (60, 80, 3))


@pytest.mark.parametrize(
    ("axes", "facing", "as_given"),
    [
        ("opencv", "camera", lambda n: n),
        ("opengl", "camera", lambda n: n * [1, -1, -1]),
        ("opencv", "away", lambda n: -n),
        (["forward", "left", "up"], "camera", lambda n: np.stack([n[..., 2], -n[..., 0], -n[..., 1]], -1)),
    ],
)
@pytest.mark.parametrize("zero_to_one", [False, True])
def test_normals_come_in_our_axes_from_any(
    tmp_path: Path, axes: Any, facing: str, as_given: Any, zero_to_one: bool
) -> None:
    rgb = drawn(as_given(slanted()))
    # Fed as -1..1 or 0..1, which the network hands back.
    card = {"scale": 1 / 255} if zero_to_one else {"scale": 1 / 127.5, "mean": [1, 1, 1]}
    out = {"name": "normal", "axes": axes, "facing": facing, "range": [0, 1] if zero_to_one else [-1, 1]}
    answer = asked(mirror(tmp_path / "n.onnx"), rgb, K, **AS_IS, **card, outputs={"normal": out})
    assert answer.depth is None
    assert answer.normals is not None
    assert np.abs(np.linalg.norm(answer.normals, axis=-1) - 1).max() < 1e-5
    apart = np.degrees(np.arccos(np.clip((answer.normals * slanted()).sum(-1), -1, 1)))
    assert apart.max() < 0.5
    assert (answer.converted == "") == (axes == "opencv" and facing == "camera")


def test_normals_that_face_away_are_tilted_until_seen_edge_on(tmp_path: Path) -> None:
    n = np.zeros((60, 80, 3))
    n[..., 0], n[..., 2] = 0.8, 0.6
    answer = asked(
        mirror(tmp_path / "n.onnx"),
        drawn(n),
        K,
        **AS_IS,
        scale=1 / 127.5,
        mean=[1, 1, 1],
        outputs={"normal": {"name": "normal"}},
    )
    assert answer.normals is not None
    along = (answer.normals[0] * geometry.rays(K, 80, 60)).sum(-1)
    assert along.max() < 1e-5
    assert answer.normals[0, 30, 40] == pytest.approx([1, 0, 0], abs=0.02)


def test_depth_and_normals_may_come_together_and_be_taken_apart(tmp_path: Path) -> None:
    rgb = pictures(5)
    outputs = {"depth": DEPTH, "normal": {"name": "normal", "axes": "opengl", "range": [0, 255]}}
    answer = asked(mirror(tmp_path / "n.onnx"), rgb, K, **AS_IS, batch=2, outputs=outputs)
    alone = asked(mirror(tmp_path / "n.onnx"), rgb[2:4], K, **AS_IS, outputs=outputs)
    part = answer.frames(2, 4)
    assert len(answer) == 5
    assert part.normals is not None
    assert np.array_equal(part.depth, alone.depth, equal_nan=True)
    assert np.array_equal(part.normals, alone.normals, equal_nan=True)
    assert answer.converted == "normals from opengl axes"


# --- cards and files that do not fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"outpt": "relative"}, "its keys are scale, mean, std, channels, size"),
        ({"output": "disparity"}, "metric-inverse"),
        ({"size": [3]}, "width, height"),
        ({"std": [1, 0, 1]}, "std > 0"),
        ({"outputs": {"disparity": {}}}, "outputs are depth and normal"),
        ({"outputs": {"depth": {"kind": "metric"}}}, "metric-z"),
        ({"outputs": {"depth": {"nam": "x"}}}, "nam"),
        ({"outputs": {"normal": {"name": "normal", "axes": "maya"}}}, "opencv, opengl"),
        ({"outputs": {"normal": {"name": "normal", "axes": ["up", "down", "left"]}}}, "opencv, opengl"),
        ({"range": "ray"}, "cannot be undone"),
        ({"canonical_focal": 1000}, "metres"),
        ({"size": [80, 60], "outputs": {"depth": {"name": "depht"}}}, "it has depth, normal"),
        ({"output": "relative"}, "short_side: 192"),
        ("[1, 2]", "keys and values"),
        ("a: [", "does not describe"),
    ],
)
def test_a_card_that_cannot_be_meant_is_refused_in_one_line(tmp_path: Path, card: Any, words: str) -> None:
    path = mirror(tmp_path / "net.onnx")
    path.with_suffix(".yaml").write_text(card if isinstance(card, str) else yaml.safe_dump(card))
    with pytest.raises(ValueError, match=words) as caught:
        depth_onnx.check(ModelRef("depth_onnx", str(path)))
    assert "\n" not in str(caught.value)


def test_a_batch_that_the_file_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes 2 at once, its card states batch: 4"):
        asked(mirror(tmp_path / "net.onnx", (2, 3, 60, 80)), pictures(), batch=4)


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"not a network at all")
    with pytest.raises(ValueError, match="no ONNX file") as caught:
        depth_onnx.check(ModelRef("depth_onnx", str(tmp_path / "net.onnx")))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="not one picture"):
        depth_onnx.check(ModelRef("depth_onnx", str(mirror(tmp_path / "flat.onnx", (3, "h", "w")))))


def test_the_embedded_network_is_found_in_the_package_or_said_to_be_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ModelRef("depth_onnx", "embedded")
    monkeypatch.setattr(depth_onnx, "EMBEDDED", tmp_path / "ours.onnx")
    with pytest.raises(
        ValueError, match=r"embedded network is not in this installation .*\(1\).*\(2\).*\(3\)"
    ) as caught:
        depth_onnx.check(ref)
    assert "\n" not in str(caught.value)
    mirror(tmp_path / "ours.onnx").with_suffix(".yaml").write_text("size: [80, 60]\nlicence: Apache-2.0\n")
    depth_onnx.check(ref)
    assert depth_onnx.licence(ref) == "Apache-2.0"
    name, revision = depth_onnx.describe(ref)
    assert name == "ours.onnx"
    (tmp_path / "ours.yaml").write_text("size: [80, 60]\nlicence: MIT\n")
    assert depth_onnx.describe(ref)[1] != revision, "another description is another model"


# --- a real one -----------------------------------------------------------------------------------------------


def test_a_real_network_answers_frames_of_several_clips_as_it_does_alone(tmp_path: Path) -> None:
    if not TCMONODEPTH.is_file():
        pytest.skip(f"no {TCMONODEPTH.name} beside the checkout")
    (tmp_path / "net.onnx").symlink_to(TCMONODEPTH)
    rgb = pictures(3)
    together = asked(tmp_path / "net.onnx", rgb, output="relative")
    alone = [asked(tmp_path / "net.onnx", frame[None], output="relative").depth for frame in rgb]
    assert together.kind == "relative"
    assert np.array_equal(together.depth, np.concatenate(alone), equal_nan=True)
    halved = asked(tmp_path / "net.onnx", rgb, output="relative", scale=0.5)
    assert not np.allclose(halved.depth, together.depth, equal_nan=True)
