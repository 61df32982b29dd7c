"""BLEU-4: how much of what a model wrote stands word for word in people's captions, in phrases of one to four words.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation" (ACL 2002), over the corpus, with
several references, without smoothing. Words are taken as for CIDEr: lower-cased runs of letters and digits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import or_

from omniloom.trainer.cider import Phrase, num_words, phrases

_LONGEST = 4


def bleu4(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4 in [0, 1]: 0 if no phrase of four words of any candidate is right.

    references: at least one caption for each candidate. A count is clipped to the most that one reference has of it;
    what is shorter, all in all, than the references nearest in length is marked down by exp(1 - reference / candidate).
    Raises ValueError if the numbers differ or a clip has no reference.
    """
    if len(candidates) != len(references) or not candidates or not all(references):
        raise ValueError(f"one candidate and its references a clip, got {len(candidates)} and {len(references)}")
    right, said = [0] * _LONGEST, [0] * _LONGEST
    words = nearest = 0
    for candidate, texts in zip(candidates, references, strict=True):
        written, meant = phrases(candidate), [phrases(text) for text in texts]
        most: Counter[Phrase] = reduce(or_, meant)
        for phrase, count in written.items():
            said[len(phrase) - 1] += count
            right[len(phrase) - 1] += min(count, most[phrase])
        length = num_words(written)
        words += length
        nearest += min((num_words(one) for one in meant), key=lambda other, own=length: (abs(other - own), other))
    if not all(right):
        return 0.0
    precision = math.exp(sum(math.log(hits / count) for hits, count in zip(right, said, strict=True)) / _LONGEST)
    return precision * (1.0 if words > nearest else math.exp(1 - nearest / words))
