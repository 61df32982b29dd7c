"""What is right to say of a labelled photograph: from its caption, the folder it lies in, and what those imply."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

_FOLDERS: Mapping[str, str] = {
    "birds": "bird",
    "insects": "insect",
    "mammals": "mammal",
    "animals": "animal",
    "amphibians": "amphibian",
    "lizards": "lizard",
    "apes": "primate",
    "aquatic": "sea mammal",
    "bears": "bear",
    "vegetables": "vegetable",
    "flowers": "flower",
    "music": "musical instrument",
    "brass": "brass instrument",
    "string": "stringed instrument",
    "wind": "wind instrument",
    "hats": "hat",
    "clothes": "clothing",
    "tools": "tool",
    "utensils": "kitchen utensil",
    "mushrooms": "mushroom",
    "vehicles": "vehicle",
    "marsupials": "marsupial",
    "masstransit": "bus",
    "auto": "car",
    "planes": "aircraft",
    "flight": "aircraft",
    "ship": "boat",
    "roadsigns": "street sign",
    "shellfish": "shellfish or snail",
    "rodents": "rodent",
}
"""Folder of Debian's tuxpaint-stamps-default -> the word that holds for all that lies in it."""

_IMPLIED: Mapping[str, str] = {
    "gander": "goose",
    "woodlouse": "isopod",
    "european bear": "brown bear",
    "bull": "ox",
    "zebu": "ox",
    "yak": "ox",
    "cow": "cattle",
    "dromedary": "camel",
    "ferret": "weasel or otter",
    "t shirt": "T-shirt",
    "granny smith": "green apple",
    "cherimoya": "custard apple",
    "green pepper": "bell pepper",
    "yellow pepper": "bell pepper",
    "classical guitar": "acoustic guitar",
    "bass guitar": "electric guitar",
    "mug": "drinking vessel",
    "glass of water": "drinking vessel",
    "toilet": "toilet seat",
    "wheelie bin": "trash can",
    "garbage can": "trash can",
    "compost bin": "trash can",
    "paratrooper": "parachute",
    "f raptor": "military aircraft",
    "cep": "bolete",
    "jack o lantern": "jack-o'-lantern",
    "fire truck": "fire engine",
    "sailboat": "sailing boat",
    "sailing ship": "sailing boat",
    "football": "ball",
    "cricket ball": "ball",
    "blackbuck": "antelope",
    "gnu": "antelope",
    "mountaingoat": "sheep or goat",
    "corn": "ear of corn",
    "crowned crane": "crane bird",
    "dumper": "tracked or farm vehicle",
    "fireman": "person",
    "santa claus": "person",
    "astronaut": "person",
    "rosella": "parrot",
    "peahen": "bird",
    "bunny": "rabbit or hare",
    "black cat": "cat",
    "bluebird": "bird",
    "chick": "bird",
    "post box": "mailbox",
    "police car": "car",
    "beetle vw": "car",
    "vw beetle": "car",
    "race car": "racing car",
    "stoplight": "traffic light",
    "sign": "street sign",
    "capybara": "rodent",
    "rat": "rodent",
    "mouse": "rodent",
    "tamarin": "monkey",
    "squirrel": "rodent",
    "shrimp": "crustacean",
    "mussel": "shellfish or snail",
    "abalone": "shellfish or snail",
    "lime": "citrus fruit",
    "orange": "citrus fruit",
    "mandarin": "citrus fruit",
    "pumpkin": "squash",
    "pattypan": "squash",
    "hoverfly": "insect",
    "hornet": "insect",
    "fedora": "hat",
    "fedoras": "hat",
    "cap": "hat",
    "teddy": "teddy bear",
    "edward bear": "teddy bear",
    "jacket": "clothing",
    "scarf": "clothing",
    "pants": "clothing",
    "shirt": "clothing",
    "glove": "clothing",
    "menorah": "candle",
    "donkey": "mammal",
    "deer": "mammal",
    "caribou": "mammal",
    "doe": "mammal",
    "wapiti": "mammal",
    "bat": "mammal",
    "seahorse": "fish",
    "dolphinfish": "fish",
    "dolphin": "sea mammal",
    "trumpet": "brass instrument",
    "mallet": "hammer",
    "spade": "shovel",
    "rhea": "bird",
    "drum kit": "drum",
    "tractor wheel": "wheel",
}
"""Words of a caption -> what else may rightly be said, where the captions and our words differ. Written by hand, with
the mismatches of both halves in view: what is doubtful (a rabbit called a hare, a lime called a lemon) is wrong."""


def right_words(path: str, text: str, vocabulary: Mapping[str, frozenset[int]]) -> set[str]:
    """Words of the vocabulary that hold for a stamp at `path` (below the stamps' folder) with the caption `text`.

    With a word every wider one holds too: who may say beagle may say dog.
    """
    place = PurePosixPath(path)
    caption = " " + re.sub(r"[^a-z]+", " ", f"{text} {place.stem}".lower()) + " "
    right = {_FOLDERS[part] for part in place.parts[:-1] if part in _FOLDERS}
    right |= {word for said, word in _IMPLIED.items() if _says(caption, said)}
    right |= {word for word in vocabulary if any(_says(caption, name) for name in word.split(" or "))}
    classes = [vocabulary[word] for word in right if word in vocabulary]
    return {word for word, held in vocabulary.items() if any(one <= held for one in classes)}


def _says(caption: str, word: str) -> bool:
    return any(f" {word.lower()}{ending} " in caption for ending in ("", "s", "es"))
