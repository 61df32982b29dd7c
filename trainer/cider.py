"""CIDEr-D: how well generated captions agree with people's, by words and phrases that are telling.

Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation" (CVPR 2015), the -D variant: phrases of one to
four words weighted by how rare they are among the references, counts clipped to the reference's, and a Gaussian
penalty (sigma 6 words) on the difference in length. Words are lower-cased runs of letters and digits; no stemming.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_LONGEST = 4
_SIGMA = 6.0
Phrase = tuple[str, ...]


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean CIDEr-D over clips, 0 (nothing in common) to 10 (one reference, repeated exactly).

    references: at least one caption for each candidate. Rarity is counted over these references, so figures compare
    only between systems on the same clips. Raises ValueError if the numbers differ or a clip has no reference.
    """
    if len(candidates) != len(references) or not candidates:
        raise ValueError(f"one candidate and its references a clip, got {len(candidates)} and {len(references)}")
    if not all(references):
        raise ValueError("every clip needs at least one reference caption")
    counted = [[phrases(text) for text in texts] for texts in references]
    clips_with = Counter(phrase for texts in counted for phrase in set().union(*texts))
    rarity = {phrase: math.log(len(candidates) / count) for phrase, count in clips_with.items()}
    never = math.log(len(candidates))
    scores: list[float] = []
    for candidate, texts in zip(candidates, counted, strict=True):
        said = phrases(candidate)
        scores.append(sum(_similarity(said, text, rarity, never) for text in texts) / len(texts))
    return 10 * sum(scores) / len(scores)


def _similarity(said: Counter[Phrase], meant: Counter[Phrase], rarity: dict[Phrase, float], never: float) -> float:
    """Mean over phrase lengths of the clipped cosine, times the length penalty."""
    dots, said_norms, meant_norms = [0.0] * _LONGEST, [0.0] * _LONGEST, [0.0] * _LONGEST
    for phrase, count in said.items():
        weight = rarity.get(phrase, never)
        dots[len(phrase) - 1] += min(count, meant[phrase]) * meant[phrase] * weight**2
        said_norms[len(phrase) - 1] += (count * weight) ** 2
    for phrase, count in meant.items():
        meant_norms[len(phrase) - 1] += (count * rarity.get(phrase, never)) ** 2
    cosines = [
        dot / math.sqrt(one * other) if one and other else 0.0
        for dot, one, other in zip(dots, said_norms, meant_norms, strict=True)
    ]
    words_apart = num_words(said) - num_words(meant)
    return sum(cosines) / _LONGEST * math.exp(-(words_apart**2) / (2 * _SIGMA**2))


def num_words(counted: Counter[Phrase]) -> int:
    """Words of a text whose phrases are counted."""
    return sum(count for phrase, count in counted.items() if len(phrase) == 1)


def phrases(text: str) -> Counter[Phrase]:
    """Runs of one to four words of a text, with how often each is there."""
    words = re.findall(r"[^\W_]+", text.lower())
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, _LONGEST + 1)
        for start in range(len(words) - length + 1)
    )
