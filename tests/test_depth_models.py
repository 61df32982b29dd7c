"""Depth by `transformers` models of every architecture known: real ones, tiny, with random weights, saved to folders.

Each is compared with what transformers' own image processor and post-processing make of the same folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniloom.modalities import geometry
from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import _hub, _prepare, depth_transformers, licence_of
from omniloom.modalities.models._torchvision import mend_torchvision
from omniloom.modalities.models.estimate import Estimate

torch = pytest.importorskip("torch")
tf = pytest.importorskip("transformers")

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
DPT = {"image_processor_type": "DPTImageProcessor", "resample": 3, "do_resize": True, "do_rescale": True, **IMAGENET}
DPT |= {"do_normalize": True, "rescale_factor": 1 / 255}


def dinov2(layers: int, size: int, patch: int = 14, **more: Any) -> Any:
    return tf.Dinov2Config(
        hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, image_size=size, patch_size=patch, **more
    )


def depth_anything(**more: Any) -> tuple[Any, dict[str, Any]]:
    config = tf.DepthAnythingConfig(
        backbone_config=dinov2(2, 42, out_indices=[1, 2], reshape_hidden_states=False),
        reassemble_hidden_size=16, neck_hidden_sizes=[8, 8], reassemble_factors=[2, 1],
        fusion_hidden_size=8, head_hidden_size=8, **more,
    )  # fmt: skip
    prepare = {**DPT, "size": {"height": 56, "width": 56}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}
    return tf.DepthAnythingForDepthEstimation(config), prepare


def dpt() -> tuple[Any, dict[str, Any]]:
    config = tf.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8,
    )  # fmt: skip
    return tf.DPTForDepthEstimation(config), {**DPT, "size": {"height": 64, "width": 64}}


def dpt_on_dinov2() -> tuple[Any, dict[str, Any]]:
    config = tf.DPTConfig(
        backbone_config=dinov2(4, 56, out_indices=[1, 2, 3, 4], reshape_hidden_states=False),
        neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, use_bias_in_fusion_residual=False,
    )  # fmt: skip
    # As those of DINOv2 state it: never resized, zeros around to whole patches.
    prepare = {**DPT, "do_resize": False, "do_pad": True, "size_divisor": 14, "size": {"height": 384, "width": 384}}
    return tf.DPTForDepthEstimation(config), prepare


def zoedepth(heads: int = 1) -> tuple[Any, dict[str, Any]]:
    backbone = tf.BeitConfig(
        image_size=32, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        use_relative_position_bias=True, out_features=[f"stage{n}" for n in range(1, 5)], reshape_hidden_states=False,
    )  # fmt: skip
    bins = [{"name": name, "n_bins": 8, "min_depth": 1e-3, "max_depth": far} for name, far in (("in", 10), ("out", 80))]
    votes: dict[str, Any] = {
        "num_patch_transformer_layers": 4, "patch_transformer_hidden_size": 128,
        "patch_transformer_intermediate_size": 32, "patch_transformer_num_attention_heads": 2,
    }  # fmt: skip
    config = tf.ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[8] * 4, fusion_hidden_size=16, bottleneck_features=16,
        num_attractors=[4, 2, 2, 1], bin_embedding_dim=8, num_relative_features=8, bin_configurations=bins[:heads],
        **(votes if heads > 1 else {}),
    )  # fmt: skip
    prepare = {"image_processor_type": "ZoeDepthImageProcessor", "do_resize": True, "do_pad": True, "resample": 2}
    prepare |= {"size": {"height": 64, "width": 96}, "keep_aspect_ratio": True, "ensure_multiple_of": 32}
    return tf.ZoeDepthForDepthEstimation(config), prepare


def glpn() -> tuple[Any, dict[str, Any]]:
    config = tf.GLPNConfig(
        num_encoder_blocks=4, depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8, max_depth=10,
    )  # fmt: skip
    prepare = {"feature_extractor_type": "GLPNFeatureExtractor", "do_resize": True, "size_divisor": 32, "resample": 2}
    return tf.GLPNForDepthEstimation(config), prepare


def depth_pro(sees_fov: bool = True) -> tuple[Any, dict[str, Any]]:
    names = ("image_model_config", "patch_model_config", "fov_model_config")
    config = tf.DepthProConfig(
        patch_size=16, fusion_hidden_size=16, intermediate_hook_ids=[1, 0], intermediate_feature_dims=[10, 8],
        scaled_images_ratios=[0.5, 1.0], scaled_images_overlap_ratios=[0.0, 0.2], scaled_images_feature_dims=[12, 12],
        merge_padding_value=1, use_fov_model=sees_fov, **{name: dinov2(2, 16, 4) for name in names},
    )  # fmt: skip
    prepare = {"image_processor_type": "DepthProImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2}
    return tf.DepthProForDepthEstimation(config), prepare


def tips() -> tuple[Any, dict[str, Any]]:
    backbone = tf.AutoConfig.for_model(
        "tipsv2_vision_model", hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        image_size=56, patch_size=14, out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = tf.Tipsv2DptConfig(
        backbone_config=backbone, neck_hidden_sizes=[8] * 4, fusion_hidden_size=16, num_depth_bins=16
    )
    prepare = {"image_processor_type": "Tipsv2DptImageProcessor", "size": {"height": 56, "width": 56}, "resample": 2}
    return tf.Tipsv2DptForDepthEstimation(config), prepare


def saved(folder: Path, made: tuple[Any, dict[str, Any]]) -> Path:
    """The model with weights lively enough that its depth differs from pixel to pixel, as the hub would give it."""
    model, prepare = made
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embeddings" not in name:
                weight.copy_(torch.randn(weight.shape, generator=draw) / weight[0].numel() ** 0.5)
                if name.startswith("head") and len(weight) == 1:
                    weight.abs_()  # the last layer: a ReLU, which should not be 0 everywhere, follows
            elif name.endswith("bias"):
                weight.copy_(0.3 * torch.rand(weight.shape, generator=draw))
        if getattr(model, "fov_model", None) is not None:
            model.fov_model.head.layers[-1].bias.fill_(50.0)  # degrees
        if len(getattr(model.config, "bin_configurations", ())) > 1:
            _divide(model, prepare)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))
    return folder


def _divide(model: Any, prepare: dict[str, Any]) -> None:
    """Of `varied` frames some vote for one head and some for the other."""
    pixels, _ = _prepare.as_zoedepth(torch.from_numpy(varied().transpose(0, 3, 1, 2).copy()), prepare)
    votes = model.eval()(pixel_values=pixels).domain_logits
    model.metric_head.mlp_classifier.linear2.bias[1] -= (votes[:, 1] - votes[:, 0]).sort().values[:2].mean()
    votes = model(pixel_values=pixels).domain_logits
    assert len(set((votes[:, 1] > votes[:, 0]).tolist())) == 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    mend_torchvision()
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small that threads would only wait for each other
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            build: dict[str, Any] = {
                "metric": lambda: depth_anything(depth_estimation_type="metric", max_depth=20),
                "two heads": lambda: zoedepth(2),
                "blind": lambda: depth_pro(sees_fov=False),
            }
            made[name] = saved(tmp_path_factory.mktemp("model"), build.get(name, globals().get(name))())
        return made[name]

    yield folder
    torch.set_num_threads(threads)


def pictures(frames: int = 3, height: int = 72, width: int = 100) -> np.ndarray:
    """Blotches of a few pixels each."""
    small = np.random.default_rng(0).integers(0, 255, (frames, height // 4, width // 4, 3), dtype=np.uint8)
    return small.repeat(4, axis=1).repeat(4, axis=2)


def varied() -> np.ndarray:
    """Of which one is bright and even."""
    rgb = pictures()
    rgb[1] = 255 - rgb[1] // 4
    return rgb


def answer(folder: Path, rgb: np.ndarray, k: np.ndarray | None = None, **options: float) -> Estimate:
    return loaded(ModelRef("depth_transformers", str(folder), tuple(options.items())))(rgb, k)


@lru_cache
def loaded(ref: ModelRef) -> Any:
    return depth_transformers.load(ref)


def by_transformers(folder: Path, rgb: np.ndarray) -> list[dict[str, Any]]:
    """What the library's own processor and model make of the frames."""
    # By class: what the hub's configurations name may be the class of an older version.
    names = {"depth_anything": "DPT", "dpt": "DPT", "zoedepth": "ZoeDepth", "glpn": "GLPN", "depth_pro": "DepthPro"}
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    processor = getattr(tf, f"{names.get(kind, 'Tipsv2Dpt')}ImageProcessor").from_pretrained(folder)
    model = tf.AutoModelForDepthEstimation.from_pretrained(folder).eval()
    with torch.inference_mode():
        out = model(**processor(images=list(rgb), return_tensors="pt"))
    sizes = [rgb.shape[1:3]] * len(rgb)
    if kind == "zoedepth":
        return processor.post_process_depth_estimation(out, source_sizes=sizes)
    return processor.post_process_depth_estimation(out, target_sizes=sizes)


# --- every architecture, against the library -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("depth_anything", "relative-inverse"),
        ("metric", "metric-z"),
        ("dpt", "relative-inverse"),
        ("zoedepth", "metric-z"),
        ("glpn", "metric-z"),
        ("depth_pro", "metric-z"),
        ("tips", "metric-z"),
    ],
)
def test_depth_is_what_the_library_itself_makes_of_the_picture(folders: Any, name: str, kind: str) -> None:
    rgb = pictures()
    found = answer(folders(name), rgb)
    assert found.depth is not None
    assert (found.kind, found.depth.shape) == (kind, (3, 72, 100))
    expected = np.stack([one["predicted_depth"].numpy() for one in by_transformers(folders(name), rgb)])
    known = expected > 0 if kind == "metric-z" else np.isfinite(expected)
    assert known.mean() > 0.2
    assert np.ptp(expected[known]) > 1e-3, "a constant would agree with anything"
    # Far away a rounding of inverse depth is metres.
    near = known & (expected < 20 * np.median(expected[known])) if kind == "metric-z" else expected != 0
    assert near.mean() > 0.2
    assert np.abs(found.depth - expected)[near].max() < 1e-4 * np.abs(expected[near]).max()
    if kind == "metric-z":
        assert np.isnan(found.depth[~known]).all()


@pytest.mark.parametrize("name", ["depth_anything", "dpt_on_dinov2", "zoedepth", "two heads", "depth_pro"])
def test_no_frame_depends_on_its_neighbours(folders: Any, name: str) -> None:
    """ZoeDepth with two heads lets the frames of a batch vote for one: seen alone they would choose differently."""
    rgb = varied()
    together = answer(folders(name), rgb)
    for index in range(3):
        alone = answer(folders(name), rgb[index : index + 1])
        part = together.frames(index, index + 1)
        assert np.allclose(part.depth, alone.depth, rtol=1e-4, atol=1e-5, equal_nan=True)
        assert (part.k is None) == (alone.k is None)
        assert part.k is None or np.allclose(part.k, alone.k, rtol=1e-4)


def test_more_frames_than_are_fed_at_once_come_back_in_order(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = pictures(5)
    whole = answer(folders("depth_anything"), rgb).depth
    monkeypatch.setattr(depth_transformers, "_FRAMES", 2)
    assert np.allclose(answer(folders("depth_anything"), rgb).depth, whole, atol=1e-5)
    monkeypatch.setattr(depth_transformers, "_PIXELS", 1)
    assert np.allclose(answer(folders("depth_anything"), rgb).depth, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("prepare", "stated"),
    [
        ("as_dpt", {"size": 56}),
        ("as_dpt", {"size": {"height": 100, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}),
        ("as_dpt", {"do_resize": False, "do_pad": True, "size_divisor": 14}),
        ("as_zoedepth", {"size": {"height": 96, "width": 160}, "ensure_multiple_of": 32}),
        ("as_glpn", {}),
        ("as_depth_pro", {"size": {"height": 128, "width": 128}}),
        ("as_tips", {"size": {"height": 112, "width": 112}}),
    ],
)
def test_what_is_fed_comes_back_on_the_pixels_it_came_from(prepare: str, stated: dict[str, Any]) -> None:
    """A network that handed back its input: margins gone, nothing moved. One pixel of the ramp is 2."""
    v, u = np.mgrid[0:72, 0:100]
    ramp = torch.from_numpy((u + v).astype(np.uint8))[None, None].repeat(2, 3, 1, 1)
    pixels, restore = getattr(_prepare, prepare)(ramp, {"do_normalize": False, **stated})
    back = restore(pixels[:, 0]) * 255
    assert back.shape == (2, 72, 100)
    assert (back - ramp[:, 0])[:, 6:-6, 6:-6].abs().max() < 1.1


# --- what the numbers mean ------------------------------------------------------------------------------------


def test_heads_on_dinov2_are_metric_and_the_margin_is_not_squeezed_into_the_picture(folders: Any) -> None:
    rgb = pictures(1)
    found = answer(folders("dpt_on_dinov2"), rgb)
    assert found.kind == "metric-z"
    padded = np.zeros((1, 84, 112, 3), np.uint8)
    padded[:] = np.rint(255 * np.array(IMAGENET["image_mean"]))  # zeros, once normalised
    padded[:, 6:78, 6:106] = rgb
    whole = answer(folders("dpt_on_dinov2"), padded)
    assert found.depth is not None
    assert whole.depth is not None
    assert np.nanmean(np.abs(whole.depth[:, 6:78, 6:106] - found.depth)) < 0.01 * np.nanmean(found.depth)


def test_a_model_may_say_itself_what_its_numbers_mean(folders: Any, tmp_path: Path) -> None:
    shutil.copytree(folders("dpt"), tmp_path / "mine")
    config = json.loads((tmp_path / "mine/config.json").read_text())
    (tmp_path / "mine/config.json").write_text(json.dumps({**config, "omniloom_kind": "relative"}))
    assert answer(tmp_path / "mine", pictures(1)).kind == "relative"
    shutil.copytree(folders("dpt"), tmp_path / "wrong")
    (tmp_path / "wrong/config.json").write_text(json.dumps({**config, "omniloom_kind": "metres"}))
    with pytest.raises(ValueError, match="metric-z, relative-inverse, relative"):
        depth_transformers.check(ModelRef("depth_transformers", str(tmp_path / "wrong")))


def test_depth_pro_tells_the_camera_and_scales_by_a_given_one(folders: Any) -> None:
    rgb = pictures()
    seen = answer(folders("depth_pro"), rgb)
    assert seen.k is not None
    assert seen.ks is not None
    told = by_transformers(folders("depth_pro"), rgb)
    assert np.allclose(seen.ks[:, 0, 0], [float(one["focal_length"]) for one in told], rtol=1e-4)
    assert np.allclose(seen.ks[:, 0, 2], 49.5)
    k = geometry.intrinsics(130.0, 130.0, 49.5, 35.5)
    given = answer(folders("depth_pro"), rgb, k)
    assert given.k is None, "the camera was given, not estimated"
    factor = 130.0 / seen.ks[:, 0, 0][:, None, None]
    known = np.isfinite(seen.depth) & np.isfinite(given.depth)
    assert known.mean() > 0.2
    assert np.allclose((seen.depth * factor)[known], given.depth[known], rtol=1e-4)
    assert seen.converted == "inverse depth to z"


def test_depth_pro_without_any_camera_is_known_up_to_a_factor(folders: Any) -> None:
    rgb = pictures(1)
    blind, wide = answer(folders("blind"), rgb), answer(folders("blind"), rgb, fov_deg=90)
    assert blind.kind == "relative"
    assert blind.k is None
    assert "assumed 60 degrees" in blind.converted
    known = np.isfinite(blind.depth) & np.isfinite(wide.depth)
    assert known.mean() > 0.2
    assert np.allclose(blind.depth[known], np.sqrt(3) * wide.depth[known], rtol=1e-4)
    assert answer(folders("blind"), rgb, geometry.assumed_intrinsics(100, 72)).kind == "metric-z"


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "chmv2"}, "height of trees"),
        ({"model_type": "prompt_depth_anything"}, "depth sensor"),
        ({"model_type": "vggt"}, "is not known here, only of depth_anything, dpt, zoedepth"),
        ({"model_type": "zoedepth"}, "prepared for by a DPTImageProcessor"),
    ],
)
def test_what_is_not_known_to_be_depth_is_refused_before_it_is_loaded(
    folders: Any, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    shutil.copytree(folders("dpt"), tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=words) as caught:
        depth_transformers.check(ModelRef("depth_transformers", str(tmp_path / "model")))
    assert "\n" not in str(caught.value)


def test_weights_without_a_depth_head_are_refused(folders: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders("dpt"), tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("head.")}
    save_file(kept, tmp_path / "model/model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights of a depth model, such as head"):
        answer(tmp_path / "model", pictures(1))


@pytest.mark.parametrize("why", ["no network", "offline"])
def test_a_hub_model_that_cannot_be_had_is_one_line_with_three_ways(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("[Errno -2] Name or service not known\nsecond line")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", why == "offline")
    ref = ModelRef("depth_transformers", f"depth-anything/no-such-model-{why.replace(' ', '-')}")
    with pytest.raises(
        ValueError, match=r"\(1\) a hub name .*\(2\) the folder .*\(3\) the path of an \.onnx"
    ) as caught:
        depth_transformers.check(ref)
    assert "\n" not in str(caught.value)
    assert ("HF_HUB_OFFLINE" if why == "offline" else "Name or service") in str(caught.value)
    assert licence_of(ref) == ""


@pytest.mark.parametrize("name", ["/no/such/folder", "no-such-folder", "./here"])
def test_a_folder_that_is_none_is_named_with_the_ways_to_get_one(name: str) -> None:
    with pytest.raises(ValueError, match=r"no config\.json.*'given'"):
        depth_transformers.check(ModelRef("depth_transformers", name))


# --- where it came from ---------------------------------------------------------------------------------------


def test_what_the_hub_left_on_this_machine_is_used_without_a_network(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--lab--depth-small"
    shutil.copytree(folders("dpt"), repository / "snapshots" / commit)
    (repository / "snapshots" / commit / "README.md").write_text(
        "---\nlicense: cc-by-nc-4.0\ntags: [x]\n---\n# Depth\n"
    )
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("lab/depth-small", f"lab/depth-small@{commit}"):
        ref = ModelRef("depth_transformers", name)
        depth_transformers.check(ref)
        assert depth_transformers.describe(ref) == ("lab/depth-small", commit)
        assert licence_of(ref) == "cc-by-nc-4.0"
        assert depth_transformers.load(ref)(pictures(1)).depth is not None
    with pytest.raises(ValueError, match="not on this machine"):
        depth_transformers.check(ModelRef("depth_transformers", "lab/depth-small@other"))


def test_equal_folders_have_equal_revisions_and_others_do_not(folders: Any, tmp_path: Path) -> None:
    shutil.copytree(folders("dpt"), tmp_path / "same")
    shutil.copytree(folders("dpt"), tmp_path / "other")
    with (tmp_path / "other/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    names = [str(folders("dpt")), str(tmp_path / "same"), str(tmp_path / "other")]
    revisions = [depth_transformers.describe(ModelRef("depth_transformers", name))[1] for name in names]
    assert revisions[0] == revisions[1] != revisions[2]
    assert revisions[0].startswith("xxh3:")
    assert licence_of(ModelRef("depth_transformers", names[0])) == "", "no README, no licence"


def test_only_one_set_of_weights_is_fetched() -> None:
    listed = ["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "onnx/model.onnx", "config.json"]
    listed += ["README.md", "onnx/config.json", "preprocessor_config.json"]
    assert _hub._wanted(listed) == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert _hub._wanted([*shards, "x.fp16.safetensors"]) == sorted(shards)


# --- on a GPU -------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["depth_anything", "dpt", "zoedepth", "glpn", "depth_pro", "tips"])
def test_a_gpu_gives_nearly_the_same_depth(folders: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    rgb = pictures()
    ref = ModelRef("depth_transformers", str(folders(name)))
    on_gpu = depth_transformers.load(ref)(rgb)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = depth_transformers.load(ref)(rgb)
    known = np.isfinite(on_cpu.depth) & np.isfinite(on_gpu.depth)
    assert known.mean() > 0.2
    assert np.median(np.abs(on_gpu.depth / on_cpu.depth - 1)[known]) < 5e-3
