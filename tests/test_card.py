"""The model card says what the model is, what it learned from and how well it did, and names no place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from omniloom.trainer.card import About, model_card, name_of, read_about, write_card
from omniloom.trainer.mico import MiCo
from tests.toys import SMALL, make_mico, make_world

SCORES = {"r1": 0.1234, "r5": 0.5, "r10": 1.0, "medr": 3.0, "mrr": 0.2}
REPORT = {
    "n": 321,
    "chance": {**SCORES, "r1": 0.003},
    "retrieval": {"t->va": SCORES, "va->t": SCORES},
    "ci95": {"t->va": [0.1, 0.15]},
    "matching": {"va": {"auc": 0.875}},
    "caption": {"va": {"cider": 0.5, "nll": 1.0, "nll_blank": 3.0, "dnll": 2.0}},
    "controls": {"permuted": {"t->va": {**SCORES, "r1": 0.0042}}},
}


def test_a_saved_model_carries_its_card_and_gives_it_on(tmp_path: Path) -> None:
    secret = "/home/somebody/private/vit.safetensors"
    model = make_mico(make_world(4, 0, SMALL.window(train=False)), replace(SMALL, backbone_weights=secret))
    data = name_of("s3://key:secret@bucket/films/?token=hush")
    model.about = replace(model.about, tasks="ret%tva_cap%tva", data=data, steps=600, batch_size=64)
    model.save_pretrained(tmp_path / "kept")
    card = (tmp_path / "kept" / "README.md").read_text()
    for said in (
        "ret%tva_cap%tva",
        "| films |",
        "600 of 64",
        "frames (v)",
        "points (p)",
        "Not stated",
        "Not evaluated",
        "begun from `vit.safetensors`",
    ):
        assert said in card
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert f"{millions:.2f} million" in card
    again = MiCo.from_pretrained(tmp_path / "kept")
    assert again.about == model.about
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == card
    for folder in (tmp_path / "kept", tmp_path / "again"):
        for path in folder.iterdir():
            for private in (b"somebody", b"hush", b"secret", str(tmp_path).encode()):
                assert private not in path.read_bytes(), path


def test_what_was_measured_stands_in_it(tmp_path: Path) -> None:
    model = make_mico(make_world(4, 0, SMALL.window(train=False)))
    write_card(tmp_path, model, About("ret%tva", "films", 600, 64, figures={"test": REPORT}))
    card = (tmp_path / "README.md").read_text()
    assert "Split `test`, 321 clips" in card
    assert "| t->va | 12.3 | 50.0 | 100.0 | 10.0 to 15.0 |" in card
    assert "| t->va, permuted | 0.4 |" in card
    assert "| chance | 0.3 |" in card
    assert "AUC 0.875" in card
    assert "CIDEr 0.500, 2.000 nats" in card
    assert read_about(tmp_path).figures["test"]["n"] == 321
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "about.json"]


def test_the_header_is_what_hubs_read() -> None:
    config = replace(SMALL, licence="cc-by-4.0")
    card = model_card(config, About(), parameters=10**6, vocabulary=50)
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["library_name"] == "omniloom"
    assert "\ncc-by-4.0\n" in card
    assert yaml.safe_load(model_card(SMALL, About(), parameters=1, vocabulary=5).split("---")[1])["license"] == "other"
