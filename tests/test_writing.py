"""Writing with remembered keys and values gives the words of writing without, and beams find what is likelier."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from omniloom.trainer.mico import MiCo
from omniloom.trainer.text import CLS, MASK, PAD, SEP, UNKNOWN, Tokens
from omniloom.trainer.writing import write
from tests.toys import SMALL, World, make_mico, make_world

torch.set_num_threads(1)
NAMES = ("frames", "audio")
# Two layers: with one, what a settled word has seen would never be looked at.
CONFIG = replace(SMALL, text_depth=2)
FORBIDDEN = [PAD, UNKNOWN, CLS, MASK]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(6, 0, SMALL.window(train=False))


@pytest.fixture(scope="module")
def model(world: World) -> MiCo:
    """Untrained, but with opinions: its logits are spread so that texts differ and end."""
    model = make_mico(world, CONFIG).eval()
    with torch.no_grad():
        for module in model.text.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(3)
        model.text.tokens.weight.mul_(40)
        model.text.word_bias[SEP] = 6
    return model


def _seen(model: MiCo, world: World, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    batch = world.batch(range(count))
    batch.present["audio"][1] = False
    with torch.no_grad():
        return model.context.select(model.encode_context(batch), NAMES)


def _begin(batch: int) -> Tokens:
    return Tokens(torch.full((batch, 1), CLS), torch.ones(batch, 1).bool())


@torch.no_grad()
def _from_scratch(
    model: MiCo, prefix: Tokens, seen: tuple[torch.Tensor, torch.Tensor], max_tokens: int
) -> list[list[int]]:
    """Greedy words of each text alone, everything computed anew for each: the definition of what `write` does."""
    texts: list[list[int]] = []
    for row in range(len(prefix.ids)):
        asked = prefix.ids[row : row + 1, : int(prefix.mask[row].sum())]
        question = Tokens(asked, torch.ones_like(asked).bool())
        context = (seen[0][row : row + 1], seen[1][row : row + 1])
        words: list[int] = []
        while len(words) < max_tokens and SEP not in words:
            tail = torch.tensor([[*words, MASK]])
            hidden = model.text.answer(question, Tokens(tail, torch.ones_like(tail).bool()), *context)
            logits = model.text.words(hidden[0, -1])
            logits[FORBIDDEN] = -torch.inf
            words.append(int(logits.argmax()))
        texts.append(words)
    return texts


def _words(ids: torch.Tensor) -> list[list[int]]:
    return [[word for word in row if word != PAD] for row in ids.tolist()]


def test_remembered_keys_and_values_change_no_word(model: MiCo, world: World) -> None:
    seen = _seen(model, world)
    expected = _from_scratch(model, _begin(6), seen, 20)
    assert len({tuple(words) for words in expected}) > 2  # the texts depend on what is seen,
    assert len({len(words) for words in expected}) > 1  # and end at different places
    assert _words(write(model.text, _begin(6), *seen, 20)) == expected


def test_questions_of_different_lengths_do_not_disturb_each_other(model: MiCo, world: World) -> None:
    seen = _seen(model, world)
    questions = ["red?", "a low red tone on the left side", "", "disc", "a bar", "what sound plays at the right?"]
    prefix = model.tokenize(questions)
    assert int(prefix.mask.sum(1).min()) < prefix.ids.shape[1]
    assert _words(write(model.text, prefix, *seen, 8)) == _from_scratch(model, prefix, seen, 8)


def test_what_comes_first_is_read_as_generate_reads_it(model: MiCo, world: World) -> None:
    seen = _seen(model, world)
    tokens = model.tokenize(world.texts)
    with torch.no_grad():
        draft = model.text.begin(_begin(6), *seen)
        word = None
        for place in range(1, 6):
            logits, draft = model.text.advance(draft, word)
            asked = tokens.ids[:, : place + 1].clone()
            asked[:, place] = MASK
            hidden = model.text.generate(Tokens(asked, torch.ones_like(asked).bool()), *seen)
            torch.testing.assert_close(logits, model.text.words(hidden[:, place]), atol=2e-3, rtol=1e-3)
            word = tokens.ids[:, place]


def _log_p(model: MiCo, words: list[int], seen: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Of a text for the first context, where the words that `write` never writes have no probability."""
    total, draft, word = 0.0, model.text.begin(_begin(1), seen[0][:1], seen[1][:1]), None
    for token in words:
        logits, draft = model.text.advance(draft, word)
        logits[:, FORBIDDEN] = -torch.inf
        total += float(logits[0].log_softmax(-1)[token])
        word = torch.tensor([token])
    return total


def test_enough_beams_find_the_likeliest_of_all_texts(world: World) -> None:
    config_world = World(world.tensors, ["a b", "c"])
    model = make_mico(config_world, CONFIG, seed=3).eval()
    with torch.no_grad():
        model.text.tokens.weight.mul_(60)
    seen = _seen(model, world, 3)
    letters = [token for token in range(len(model.tokenizer)) if token not in FORBIDDEN]
    texts = [
        list(words)
        for length in (1, 2, 3)
        for words in itertools.product(letters, repeat=length)
        if SEP not in words[:-1] and (words[-1] == SEP or length == 3)
    ]
    with torch.no_grad():
        scored = {tuple(words): _log_p(model, words, seen) for words in texts}
    assert sum(torch.tensor(list(scored.values())).exp()) == pytest.approx(1, abs=1e-3)  # they are all there are
    for penalty in (0.0, 1.0):
        best = max(scored, key=lambda words: scored[words] / len(words) ** penalty)
        found = write(model.text, _begin(3), *seen, 3, beams=200, length_penalty=penalty)
        assert _words(found)[0] == list(best)


def test_more_beams_write_texts_at_least_as_likely(model: MiCo, world: World) -> None:
    seen = _seen(model, world)

    def likelihood(beams: int) -> torch.Tensor:
        words = write(model.text, _begin(6), *seen, 6, beams=beams, length_penalty=0.0)
        return torch.tensor(
            [_log_p(model, row, (seen[0][i : i + 1], seen[1][i : i + 1])) for i, row in enumerate(_words(words))]
        )

    with torch.no_grad():
        one, four = likelihood(1), likelihood(4)
    assert bool((four >= one - 1e-4).all())
    assert float((four - one).max()) > 1e-3


def test_the_model_writes_with_beams_too(model: MiCo, world: World) -> None:
    batch = world.batch(range(3))
    assert model.caption(batch, "va", beams=1) == model.caption(batch, "va")
    assert len(model.caption(batch, "va", beams=3)) == 3
    with pytest.raises(ValueError, match="at least 1"):
        model.caption(batch, "va", beams=0)
