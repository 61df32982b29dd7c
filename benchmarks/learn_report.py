"""The learning benchmark's figures as sentences and tables for reading and as bars for looking.

Of each variant there are the ranks of the same held-out clips for several seeds: (S, N). An interval holds the middle
95 % of 2,000 resamples of seeds and of clips; a difference is paired, seed by seed and clip by clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.benchmarks import learn_runs as runs
from omniloom.benchmarks.learn_runs import STAMPS, WORLD
from omniloom.benchmarks.timing import as_row

Scores = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""By corpus and variant, one a seed."""
_RESAMPLES = 2000
_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "r1": lambda ranks: (ranks <= 1).astype(float),
    "r5": lambda ranks: (ranks <= 5).astype(float),
    "r10": lambda ranks: (ranks <= 10).astype(float),
    "mrr": lambda ranks: 1 / ranks,
}
GOAL_R10 = 0.70
"""Image -> caption on the stamps with a pretrained backbone."""

_LADDER = [variant.name for variant in runs.LADDER]
_AGAINST: dict[str, tuple[str, Sequence[str]]] = {
    "modalities, one more each": ("", _LADDER),
    "one modality alone": (runs.BASE, ["V", *(variant.name for variant in runs.SINGLES)]),
    "controls": (runs.BASE, [variant.name for variant in runs.CONTROLS]),
    "objectives": (runs.BASE, [variant.name for variant in runs.OBJECTIVES]),
    "data": (runs.BASE, [variant.name for variant in runs.SCALE]),
    "similarities": (runs.BASE, [variant.name for variant in runs.SIMILARITIES]),
    "training for what may be missing": (runs.BASE, [variant.name for variant in runs.DROPOUT]),
    "context embeddings": (runs.GEN, [variant.name for variant in runs.CONTEXT]),
}
"""Experiments on the demo world: what is compared with what. On the ladder each step with the one below."""


# --- figures ---------------------------------------------------------------------------------------------------


def findings(scores: Scores, peers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of every variant, differences within each experiment, and what was to be shown."""
    found: dict[str, Any] = {}
    world, stamps = scores.get(WORLD, {}), scores.get(STAMPS, {})
    found[WORLD] = {name: _variant(by_seed, "t->{}") for name, by_seed in world.items()}
    found[STAMPS] = {name: _variant(by_seed, "{}->t") for name, by_seed in stamps.items()}
    found["peers"] = {name: _variant([{**scored, "letters": "v"}], "{}->t") for name, scored in peers.items()}
    found["differences"] = {
        title: {name: told for name in names if (told := _difference(world, name, _other(title, base, name)))}
        for title, (base, names) in _AGAINST.items()
    }
    first = runs.PICTURE
    others = [name for name in stamps if name != first]
    found["differences"]["stamps"] = {
        name: told for name in others if (told := _difference(stamps, name, first, back=True))
    }
    found["claims"] = _claims(world, found)
    return found


def _once(base: str, names: Sequence[str]) -> list[str]:
    """What is compared, what it is compared with first."""
    return [base, *(name for name in names if name != base)] if base else [*names]


def _other(title: str, base: str, name: str) -> str:
    if base:
        return base
    place = _LADDER.index(name)
    return _LADDER[place - 1] if place else ""


def _variant(by_seed: Sequence[Mapping[str, Any]], query: str) -> dict[str, Any]:
    """Figures of its main query, the mean R@1 of all queries, and what else was scored, means over seeds."""
    main = query.format(by_seed[0]["letters"])
    values = _ranks(by_seed, main)
    found: dict[str, Any] = {
        "seeds": len(by_seed),
        "query": main,
        **{name: _interval(metric(values)) for name, metric in _METRICS.items()},
        "r1_of": {name: _rounded((_ranks(by_seed, name) <= 1).mean()) for name in by_seed[0]["ranks"]},
        "r10_of": {name: _rounded((_ranks(by_seed, name) <= 10).mean()) for name in by_seed[0]["ranks"]},
    }
    if "chance" in by_seed[0]:
        found["chance"] = {name: _rounded(value) for name, value in by_seed[0]["chance"].items()}
        found["train_s"] = _rounded(np.mean([scored["train_s"] for scored in by_seed]))
    if "auc" in by_seed[0]:
        found["auc"] = _rounded(np.mean([scored["auc"] for scored in by_seed]))
    if "caption" in by_seed[0]:
        for name in ("cider", "nll", "dnll"):
            found[name] = _rounded(np.mean([scored["caption"][name] for scored in by_seed]))
        found["written"] = by_seed[0]["caption"]["written"]
    return found


def _difference(
    scores: Mapping[str, Sequence[Mapping[str, Any]]], name: str, base: str, *, back: bool = False
) -> dict[str, Any] | None:
    """R@1, R@10 and MRR of one variant less those of another, of the seeds that both have; None if either lacks all."""
    if name not in scores or base not in scores:
        return None
    here, there = ({scored["seed"]: scored for scored in scores[each]} for each in (name, base))
    seeds = sorted(here.keys() & there.keys())
    if not seeds:
        return None
    pair = [_ranks([each[seed] for seed in seeds], _main(each[seeds[0]]["letters"], back)) for each in (here, there)]
    told = {metric: _interval(value(pair[0]) - value(pair[1])) for metric, value in _METRICS.items() if metric != "r5"}
    return {"against": base, "seeds": len(seeds), **told}


def _main(letters: str, back: bool) -> str:
    return f"{letters}->t" if back else f"t->{letters}"


def _ranks(by_seed: Sequence[Mapping[str, Any]], query: str) -> np.ndarray:
    """Float (S, N)."""
    return np.array([scored["ranks"][query] for scored in by_seed], float)


def _interval(values_SN: np.ndarray) -> dict[str, float]:
    """Mean, and the middle 95 % of means over resampled seeds and clips."""
    seeds_RS, clips_RN = (_shares(count) for count in values_SN.shape)
    means_R = ((seeds_RS @ values_SN) * clips_RN).sum(1)
    low, high = np.quantile(means_R, [0.025, 0.975])
    return {"mean": _rounded(values_SN.mean()), "low": _rounded(low), "high": _rounded(high)}


@cache
def _shares(count: int) -> np.ndarray:
    """Float (resamples, count): how large a part of each resample each one is."""
    return np.random.default_rng(count).multinomial(count, [1 / count] * count, _RESAMPLES) / count


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def _claims(world: Mapping[str, Sequence[Mapping[str, Any]]], found: Mapping[str, Any]) -> dict[str, Any]:
    """What the benchmark is there to show: each with its figure, its goal and whether it was reached."""
    claims: dict[str, Any] = {}
    for single in ("V", "A alone", "D alone"):
        told = _difference(world, "V+A+D", single)
        if told:
            claims[f"text -> V+A+D over {single.split()[0]} alone, R@1"] = {
                **told["r1"], "goal": "clearly above 0", "reached": told["r1"]["low"] > 0,
            }  # fmt: skip
    base, permuted = found[WORLD].get(runs.BASE), found[WORLD].get("permuted captions")
    if permuted:
        by_luck = permuted["chance"]["r10"]
        held = permuted["r10"]
        reached = held["low"] <= by_luck <= held["high"] or held["mean"] < by_luck
        claims["permuted captions stay at chance, R@10"] = {**held, "goal": by_luck, "reached": reached}
    if base:
        letters = base["query"].removeprefix("t->")
        for letter in letters:
            fall = base["r1_of"][f"t->{letters}, {letter} exchanged"] - base["r1"]["mean"]
            claims[f"another clip's {letter}: R@1 falls"] = {"mean": _rounded(fall), "goal": "< 0", "reached": fall < 0}
    frozen = {name: told for name, told in found[STAMPS].items() if name.startswith("frozen")}
    pretrained = {name: told for name, told in frozen.items() if "random" not in name}
    if pretrained:
        best = max(pretrained, key=lambda name: pretrained[name]["r10"]["mean"])
        reached = pretrained[best]["r10"]["mean"] >= GOAL_R10
        claims[f"stamps, image -> caption R@10, {best}"] = {
            **pretrained[best]["r10"], "goal": GOAL_R10, "reached": reached,
        }  # fmt: skip
    return claims


# --- words -----------------------------------------------------------------------------------------------------

_HOW = """\
Retrieval among held-out clips: a text asks for its clip among all (t->v), or a clip for its caption (v->t).
{world}{stamps}Both corpora are made from raw files by `omniloom build` and read by the loader; views (random frames,
crops and captions) are decoded once and shared by all runs, so that these differ in what they learn alone. The network
is mico-tiny (48 px, .9 M parameters); R@1 is the share of queries whose right answer comes first. Intervals are 95 %
over {seeds} seeds and the clips, differences are paired by both. One thread a run, {minutes:g} minutes in this call."""


def as_markdown(report: Mapping[str, Any]) -> str:
    """What it comes to, what got worse, then every experiment."""
    clips = report["clips"]
    world, stamps = report[WORLD], report[STAMPS]
    texts = {
        "world": _corpus_words(clips.get(WORLD), report["sizes"][WORLD], "Demo world (scenes that show a pair of"
                               " shape and colour, or shape and motion, that no training clip shows)"),
        "stamps": _corpus_words(clips.get(STAMPS), report["sizes"][STAMPS], "Tux Paint's stamps (captions that no"
                                " training clip has; the effect is heard, never the spoken description)"),
    }  # fmt: skip
    how = _HOW.format(seeds=report["seeds"], minutes=report["minutes"], **texts)
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = ["# Does the model learn?", ""]
    if report["quick"]:
        lines += ["A quick run: it shows that everything runs, and measures nothing.", ""]
    lines += [how, "", f"{report['machine']}; {versions}. Made by `omniloom bench learn`.", ""]
    lines += ["## What was to be shown", "", as_row(["", "measured", "goal", ""]), "|---|---:|---:|---|"]
    for name, claim in report["claims"].items():
        goal = claim["goal"] if isinstance(claim["goal"], str) else f"{100 * claim['goal']:.1f} %"
        lines.append(as_row([name, _percent(claim), goal, "reached" if claim["reached"] else "**not reached**"]))
    lines += ["", "## In words", "", *_sentences(report)]
    lines += ["", "## What did not help, or did harm", "", *_regressions(report)]
    for title, differences in report["differences"].items():
        if title == "stamps" or not (differences or title.startswith("modal")):
            continue
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", *_table(title, world, differences)]
    if runs.BASE in world:
        lines += ["", "## Another clip's modality, and modalities that are missing", "", *_swaps(world)]
    if stamps or report["peers"]:
        lines += ["", "## Tux Paint's stamps", "", *_stamps(report)]
    if report["missing"]:
        lines += ["", "## Missing", "", *(f"- {what}" for what in report["missing"])]
    return "\n".join([*lines, ""])


def _corpus_words(clips: Mapping[str, int] | None, size: Sequence[int], what: str) -> str:
    if not clips:
        return ""
    steps, batch = size
    return f"{what}: {clips['train']} training and {clips['test']} test clips, {steps} steps of {batch}.\n"


def _sentences(report: Mapping[str, Any]) -> list[str]:
    """One for each comparison: what changed, by how much, and whether that can be told from nothing."""
    lines: list[str] = []
    for title, differences in report["differences"].items():
        for name, told in differences.items():
            metric = "r10" if title == "stamps" else "r1"
            label = "R@10" if metric == "r10" else "R@1"
            change = told[metric]
            points = f"{label} {100 * change['mean']:+.1f} points ({_range(change)})"
            lines.append(f"- {title}: {name} against {told['against']}: {points}: {_verdict(change)}.")
    return lines or ["Nothing is trained yet."]


def _verdict(change: Mapping[str, float]) -> str:
    if change["low"] > 0:
        return "better"
    return "worse" if change["high"] < 0 else "no difference that these seeds and clips can show"


def _regressions(report: Mapping[str, Any]) -> list[str]:
    """Every addition that made R@1 worse or did not change it visibly, and every removal that did no harm."""
    meant = {"controls", "one modality alone", "data", "stamps"}
    lines: list[str] = []
    for title, differences in report["differences"].items():
        if title in meant:
            continue
        removal = title == "context embeddings"
        for name, told in differences.items():
            change = told["r1"]
            points = f"{100 * change['mean']:+.1f} points ({_range(change)})"
            if removal and change["low"] <= 0 <= change["high"] and name.startswith("without"):
                lines.append(
                    f"- {name}: nothing is lost that could be seen, {points} of R@1: the embedding is not needed."
                )
            elif change["high"] < 0:
                lines.append(f"- {name} made R@1 worse than {told['against']}, by {points}.")
            elif change["low"] <= 0 and not removal:
                lines.append(f"- {name} made no visible difference to {told['against']}, {points} of R@1.")
    return lines or ["Nothing that was measured."]


def _table(title: str, world: Mapping[str, Any], differences: Mapping[str, Any]) -> list[str]:
    base, names = _AGAINST[title]
    shown = [name for name in _once(base, names) if name in world]
    extra = {
        "objectives": ("auc", "cider", "dnll"),
        "context embeddings": ("auc", "cider", "dnll"),
    }.get(title, ())
    heads = {"auc": "matching AUC", "cider": "CIDEr", "dnll": "dNLL, nats"}
    ranked = [f"t->{runs.FULL}, re-ranked"] if extra else []
    lines = [
        as_row(["", "query", "seeds", "R@1 %", "R@10 %", "MRR", *(["re-ranked R@1 %"] if ranked else []),
                *(heads[name] for name in extra), "R@1, points", "against"]),
        "|---|---|---:|---:|---:|---:|" + "---:|" * (len(ranked) + len(extra)) + "---:|---|",
    ]  # fmt: skip
    for name in shown:
        told, change = world[name], differences.get(name)
        more = [f"{100 * told['r1_of'][query]:.1f}" if query in told["r1_of"] else "" for query in ranked]
        more += [f"{told[figure]:.3f}" if figure in told else "" for figure in extra]
        points = f"{100 * change['r1']['mean']:+.1f} ({_range(change['r1'])})" if change else ""
        against = change["against"] if change else ""
        figures = [_percent(told["r1"]), _percent(told["r10"]), f"{told['mrr']['mean']:.3f}"]
        lines.append(as_row([name, told["query"], told["seeds"], *figures, *more, points, against]))
    by_luck = next(iter(world.values()))["chance"] if world else None
    if by_luck:
        blank = [""] * (len(ranked) + len(extra) + 2)
        lines.append(
            as_row(
                [
                    "chance",
                    "",
                    "",
                    f"{100 * by_luck['r1']:.1f}",
                    f"{100 * by_luck['r10']:.1f}",
                    f"{by_luck['mrr']:.3f}",
                    *blank,
                ]
            )
        )
    return lines


def _swaps(world: Mapping[str, Any]) -> list[str]:
    """R@1 of one query, by what is there, of models that were trained in different ways."""
    models = [name for name in (runs.BASE, *(variant.name for variant in runs.DROPOUT)) if name in world]
    queries = [name for name in world[runs.BASE]["r1_of"] if name.startswith("t->")]
    words = (
        "Text asks; R@1 in %. After the arrow stands what the model is shown of each clip. Exchanged: that modality is"
    )
    lines = [f"{words} another clip's. Half hidden: of each clip a random half of its modalities is missing.", ""]
    lines += [as_row(["query", *models]), "|---|" + "---:|" * len(models)]
    for query in queries:
        lines.append(as_row([query, *(f"{100 * world[name]['r1_of'][query]:.1f}" for name in models)]))
    return lines


def _stamps(report: Mapping[str, Any]) -> list[str]:
    """Every variant and the linear peers, both directions."""
    lines = [
        "A picture asks for its caption among all. A frozen network is not trained: its features stand for the picture,"
        " and heads and text learn on top. Known words begin and stay where MiniLM has them. The linear peers map"
        " features to MiniLM's vectors of whole captions, by ridge regression on the same clips.",
        "",
        as_row(["", "query", "seeds", "R@1 %", "R@5 %", "R@10 %", "MRR", "R@10, points"]),
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    changes = report["differences"]["stamps"]
    for name, told in {**report[STAMPS], **report["peers"]}.items():
        change = changes.get(name)
        points = f"{100 * change['r10']['mean']:+.1f} ({_range(change['r10'])})" if change else ""
        figures = [_percent(told[metric]) for metric in ("r1", "r5", "r10")]
        lines.append(as_row([name, told["query"], told["seeds"], *figures, f"{told['mrr']['mean']:.3f}", points]))
    if report[STAMPS]:
        by_luck = next(iter(report[STAMPS].values()))["chance"]
        chance = [f"{100 * by_luck[metric]:.1f}" for metric in ("r1", "r5", "r10")]
        lines.append(as_row(["chance", "", "", *chance, f"{by_luck['mrr']:.3f}", ""]))
    return lines


def _percent(figures: Mapping[str, Any]) -> str:
    if "low" not in figures:
        return f"{100 * figures['mean']:.1f}"
    return f"{100 * figures['mean']:.1f} ({_range(figures)})"


def _range(figures: Mapping[str, float]) -> str:
    return f"{100 * figures['low']:.1f} to {100 * figures['high']:.1f}"


# --- pictures --------------------------------------------------------------------------------------------------


def draw(report: Mapping[str, Any], path: Path) -> None:
    """One panel an experiment: R@1 (stamps: R@10) with its interval, and a line at chance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    world, stamps = report[WORLD], {**report[STAMPS], **report["peers"]}
    panels: list[tuple[str, dict[str, Any], str]] = []
    for title, (base, names) in _AGAINST.items():
        shown = {name: world[name] for name in _once(base, names) if name in world}
        if len(shown) > bool(base):
            panels.append((title, shown, "r1"))
    if stamps:
        panels.append(("stamps: picture asks for its caption", stamps, "r10"))
    across = 3
    down = -(-(len(panels) + (runs.BASE in world)) // across)
    figure = Figure(figsize=(5.2 * across, 3.3 * max(down, 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(max(down, 1), across, squeeze=False).ravel())
    for panel, (title, shown, metric) in zip(axes, panels, strict=False):
        _bars(panel, title, shown, metric)
    if runs.BASE in world:
        _swap_bars(axes[len(panels)], world[runs.BASE])
    for panel in axes[len(panels) + (runs.BASE in world) :]:
        panel.set_visible(False)
    figure.suptitle("R@1 of held-out clips (stamps: R@10), %, 95 % intervals; dotted: chance", fontsize=12)
    figure.savefig(path, dpi=90)


def _bars(panel: Any, title: str, shown: Mapping[str, Any], metric: str) -> None:
    for at, told in enumerate(shown.values()):
        figures = told[metric]
        panel.barh(at, 100 * figures["mean"], color="#1f6feb" if "chance" in told else "#d9822b", height=0.7)
        panel.plot([100 * figures["low"], 100 * figures["high"]], [at, at], color="black", linewidth=1.2)
        panel.text(100 * figures["high"] + 0.5, at, f"{100 * figures['mean']:.1f}", va="center", fontsize=8)
    chance = next((told["chance"][metric] for told in shown.values() if "chance" in told), None)
    _finish(panel, title, list(shown), chance)


def _swap_bars(panel: Any, told: Mapping[str, Any]) -> None:
    queries = [name for name in told["r1_of"] if name.startswith(told["query"])]
    for at, query in enumerate(queries):
        panel.barh(at, 100 * told["r1_of"][query], color="#1f6feb", height=0.7)
        panel.text(100 * told["r1_of"][query] + 0.5, at, f"{100 * told['r1_of'][query]:.1f}", va="center", fontsize=8)
    _finish(panel, "another clip's modality", queries, told["chance"]["r1"])


def _finish(panel: Any, title: str, names: Sequence[str], chance: float | None) -> None:
    if chance is not None:
        panel.axvline(100 * chance, color="#8a8f98", linestyle=":", linewidth=1.2)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.invert_yaxis()
    panel.set_title(title, fontsize=10)
    panel.set_xlim(0, 1.15 * max(1.0, panel.dataLim.x1))
    panel.spines[["top", "right"]].set_visible(False)
