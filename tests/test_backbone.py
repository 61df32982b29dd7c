"""Backbones by name: weights from a file in full or not at all, positions resized, every family with every modality."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from omniloom.modalities.models._torchvision import mend_torchvision
from omniloom.trainer.backbone import build_vit
from omniloom.trainer.mico import MiCo
from tests.toys import SMALL, World, make_mico, make_world

torch.set_num_threads(1)
NAMES = ("frames", "audio", "depth", "normal", "points")
# The small ones of each family: their width is that of the paper's models' heads, their depth is 12.
FAMILIES = {
    "vit_tiny_patch16_224": 48,
    "vit_small_patch14_reg4_dinov2": 28,
    "eva02_tiny_patch14_224": 28,
}


def _timm(name: str, px: int, **settings: Any) -> Any:
    """A randomly initialised model of timm, with a classifier, as it would be published."""
    mend_torchvision()
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, img_size=px, num_classes=1000, **settings)


def _config(name: str, px: int, weights: Path | str = "") -> Any:
    return replace(SMALL, backbone=name, backbone_weights=str(weights), image_px=px, patch_px=px // 2)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-Ti/16 of 96 x 96 images: 6 x 6 patches."""
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file({name: t.contiguous() for name, t in _timm("vit_tiny_patch16_224", 96).state_dict().items()}, path)
    return path


def test_a_file_of_another_resolution_is_loaded_and_its_positions_are_resized(published: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(published)
    vit = build_vit(_config("vit_tiny_patch16_224", 48, published))
    assert vit.pos_embed.shape == (1, 1 + 9, 192)
    torch.testing.assert_close(vit.pos_embed[:, 0], stored["pos_embed"][:, 0])  # that of [CLS] is no place
    grid = stored["pos_embed"][:, 1:].unflatten(1, (6, 6)).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (3, 3), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(vit.pos_embed[:, 1:], expected)
    assert not torch.allclose(expected, grid[..., ::2, ::2].flatten(2).mT, atol=1e-3)
    for name, tensor in vit.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(tensor, stored[name]), name
    # The same resolution is loaded as it is.
    assert torch.equal(build_vit(_config("vit_tiny_patch16_224", 96, published)).pos_embed, stored["pos_embed"])


def test_files_of_torch_are_read_without_pickles_code(tmp_path: Path) -> None:
    source = _timm("vit_tiny_patch16_224", 32)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "vit.pth")
    vit = build_vit(_config("vit_tiny_patch16_224", 32, tmp_path / "vit.pth"))
    assert torch.equal(vit.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"state_dict": source.state_dict(), "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        build_vit(_config("vit_tiny_patch16_224", 32, tmp_path / "evil.pth"))
    assert not (tmp_path / "touched").exists()


def test_models_that_pool_their_patches_keep_their_last_norm(tmp_path: Path) -> None:
    source = _timm("eva02_tiny_patch14_224", 28)
    with torch.no_grad():
        source.fc_norm.weight.fill_(2.0)
    save_file({name: t.contiguous() for name, t in source.state_dict().items()}, tmp_path / "eva.safetensors")
    vit = build_vit(_config("eva02_tiny_patch14_224", 28, tmp_path / "eva.safetensors"))
    assert bool((vit.norm.weight == 2).all())
    assert not list(vit.fc_norm.parameters())


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("vit_tiny_patch16_224", "lacks", "lacks blocks.5.mlp.fc1.weight"),
        ("vit_tiny_patch16_224", "nonsense", "it lacks"),
        ("vit_small_patch16_224", "", "cls_token is"),
        ("vit_tiny_patch16_224", "deeper", "also has blocks.12"),
        ("vit_tiny_patch16_224", "damaged", "damaged"),
        ("vit_tiny_patch16_224", "gone", "is not there"),
        ("vit_tiny_patch16_224", "npz", "is no .safetensors"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    published: Path, name: str, change: str, says: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    state = load_file(published)
    path = tmp_path / ("x.npz" if change == "npz" else "x.safetensors")
    match change:
        case "lacks":
            del state["blocks.5.mlp.fc1.weight"]
        case "nonsense":
            state = {"something": torch.zeros(3)}
        case "deeper":
            state["blocks.12.mlp.fc1.weight"] = state["blocks.11.mlp.fc1.weight"].clone()
        case _:
            pass
    if change != "gone":
        save_file(state, path)
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=says):
        build_vit(_config(name, 48, path))


@pytest.mark.parametrize(
    ("name", "px", "says"),
    [
        ("vit_nonesuch", 48, "knows no backbone"),
        ("resnet18", 48, "vit_"),
        ("vit_base_patch16_siglip_224", 48, r"no \[CLS\]"),
    ],
)
def test_a_backbone_that_cannot_serve_is_refused(name: str, px: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_vit(_config(name, px))


@pytest.fixture(scope="module")
def worlds() -> dict[int, World]:
    return {px: make_world(2, 0, replace(SMALL, image_px=px, patch_px=px).window(train=False)) for px in (28, 48)}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_sees_every_modality_as_timm_would(name: str, worlds: dict[int, World], tmp_path: Path) -> None:
    px = FAMILIES[name]
    world, config = worlds[px], replace(_config(name, px), stem="shared_rgb")
    config = replace(config, patch_px=16 if "16" in name.partition("_224")[0] else 14)
    model = make_mico(world, config).eval()
    batch = world.batch(range(2))
    with torch.no_grad():
        features = model.encoder({one: batch.tensors[one] for one in NAMES})
        seen = (batch.tensors["frames"].flatten(0, 1) + 1) / 2
        mean, std = (torch.tensor(model.encoder.vit.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
        expected = model.encoder.vit.forward_features((seen - mean) / std)  # as timm's own transforms give it
    prefix = model.encoder.vit.num_prefix_tokens
    patches = (px // config.patch_px) ** 2
    expected = torch.cat([expected[:, :1], expected[:, prefix:]], 1)
    assert features["frames"].shape == (2, 2, 1 + patches, model.encoder.width)
    torch.testing.assert_close(features["frames"].flatten(0, 1), expected, atol=1e-5, rtol=1e-4)
    assert features["points"].shape == (2, 1, 1 + SMALL.num_groups, model.encoder.width)
    assert bool(model.embed(batch, "vadnp").isfinite().all())
    model.save_pretrained(tmp_path)
    again = MiCo.from_pretrained(tmp_path)
    assert torch.equal(again.embed(batch, "vp"), model.embed(batch, "vp"))
