"""From differences to sentences: the rules by which the page says what holds. No conclusion is written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tools.study.design import (
    BACKBONES,
    CLAIMS,
    CLIP_FSAR,
    COUNTERPARTS,
    FOLLOWED,
    FULL,
    KNOWING,
    LEARNERS,
    LOWER_RATE,
    MA_CLIP,
    MIXED,
    NO_ADAPTERS,
    NO_TEXT,
    ORDER,
    OTAM,
    PARTS,
    SCENE,
    STRICT,
    TEXT_ALONE,
    TEXT_PARTS,
    TIMES,
    UNKNOWNS,
    Claim,
    Place,
    ablation,
)
from tools.study.measured import Gap, Measured, significant

NAMES = {ORDER: "order", SCENE: "scene", MIXED: "order and scene together"}
TITLES = {
    MA_CLIP: "MA-CLIP",
    FULL: "MA-CLIP, full fine-tuning",
    CLIP_FSAR: "CLIP-FSAR",
    OTAM: "OTAM",
    "aim": "AIM",
    "bi_mhm": "Bi-MHM",
    "trx": "TRX",
    TEXT_ALONE: "text alone",
    f"{MA_CLIP} {LOWER_RATE}": "MA-CLIP at AIM's rate",
    NO_TEXT: "MA-CLIP without text",
    f"{NO_TEXT} {LOWER_RATE}": "MA-CLIP without text, at AIM's rate",
    f"ma_clip {NO_ADAPTERS}": "MA-CLIP without adapters",
}
HOLDS, CONTRADICTED, OPEN, MISSING = "holds", "contradicted", "cannot be told", "not measured"
LESS = 4  # MA-CLIP's 20,000 training tasks next to the others' 80,000
VERDICTS = {1: HOLDS, -1: CONTRADICTED, 0: OPEN}


@dataclass(frozen=True)
class Board:
    """A dataset with a backbone: a column of the page's tables."""

    dataset: str
    backbone: str

    @property
    def title(self) -> str:
        """What the page calls it."""
        return NAMES[self.dataset] + ("" if self.backbone == KNOWING else ", strict")

    def place(self, row: str) -> Place:
        """A row on it."""
        return Place(row, self.dataset, self.backbone)


BOARDS = tuple(Board(dataset, backbone) for backbone in BACKBONES for dataset in (ORDER, SCENE, MIXED))


def row_title(row: str) -> str:
    """A row in words: the method, with its settings as they are typed."""
    method, *settings = row.replace(NO_ADAPTERS, "no_adapters").split()
    shown = ", ".join(setting.removeprefix("method.").replace("no_adapters", "no adapters") for setting in settings)
    return TITLES.get(method, method) + (f" ({shown})" if shown else "")


def published_gap(claim: Claim, dataset: str) -> float | None:
    """The difference that the paper has on a dataset, in points; None where it has none."""
    figures = ablation(claim.table).published.get(dataset)
    if figures is None:
        return None
    better, worse = figures[claim.better], figures[claim.worse]
    return None if better is None or worse is None else better - worse


def measured_gap(measured: Measured, claim: Claim, board: Board) -> Gap | None:
    """The same difference on one of our boards."""
    rows = ablation(claim.table).rows
    return measured.gap(board.place(rows[claim.better]), board.place(rows[claim.worse]))


def verdict(gap: Gap | None) -> str:
    """Whether a claim holds: the difference has the paper's sign and its interval excludes 0, or the other sign, or neither."""
    return MISSING if gap is None else VERDICTS[gap.sign]


def is_published(claim: Claim, board: Board) -> bool:
    """Whether the paper tells the difference of a dataset that the board stands for."""
    return any(published_gap(claim, dataset) is not None for dataset in COUNTERPARTS[board.dataset])


def conclusions(measured: Measured) -> list[str]:
    """Lines of the last section: claims by verdict, then what the differences say of the reasons."""
    lines = [*_by_verdict(measured)]
    for title, sentences in (
        ("Words", _of_words(measured)),
        ("Parts", _of_parts(measured)),
        ("Training episodes", _of_episodes(measured)),
        ("Trained parameters", _of_parameters(measured)),
        ("Settings", _of_settings(measured)),
    ):
        bullets = [f"- {sentence}" for sentence in sentences]
        lines += [f"**{title}.**", "", *bullets, ""] if bullets else []
    return lines


def _by_verdict(measured: Measured) -> Iterable[str]:
    """The claims, by board and verdict; those that the paper makes of other data come last."""
    for board in BOARDS:
        gaps = {claim: gap for claim in CLAIMS if (gap := measured_gap(measured, claim, board)) is not None}
        if not gaps:
            continue
        ours = {claim: gap for claim, gap in gaps.items() if is_published(claim, board)}
        other = {claim: gap for claim, gap in gaps.items() if claim not in ours}
        by_word = {
            word: [_told(c, gap) for c, gap in ours.items() if verdict(gap) == word] for word in VERDICTS.values()
        }
        counts = ", ".join(f"{word}: {len(told)}" for word, told in by_word.items())
        yield f"**On {board.title}**, {len(ours)} claims ({counts})." if ours else f"**On {board.title}**, no claims."
        yield ""
        yield from (f"- {word}: {'; '.join(told)}." for word, told in by_word.items() if told)
        if other:
            told = [f"{_told(claim, gap)}, {verdict(gap)}" for claim, gap in other.items()]
            yield f"- claimed of other data: {'; '.join(told)}."
        yield ""


def _told(claim: Claim, gap: Gap) -> str:
    return f"{claim.words} ({gap})"


def brings(gap: Gap) -> str:
    """A difference as a predicate: what something brings."""
    return {1: f"brings {gap}", -1: f"costs {_positive(gap)}", 0: f"changes nothing that can be told ({gap})"}[gap.sign]


def _positive(gap: Gap) -> str:
    return str(Gap(-gap.points, gap.width, gap.p)).removeprefix("+")


def _of_words(measured: Measured) -> Iterable[str]:
    """What all text brings with each backbone, and whether the words make the difference."""
    for dataset in NAMES:
        pairs = {b: (Place(MA_CLIP, dataset, b), Place(NO_TEXT, dataset, b)) for b in BACKBONES}
        gaps = {b: gap for b, pair in pairs.items() if (gap := measured.gap(*pair)) is not None}
        for backbone, gap in gaps.items():
            alone = measured.accuracy(Place(TEXT_ALONE, dataset, backbone))
            told = f" (text alone, without any support, has {alone.percent:.1f} %)" if alone else ""
            yield f"On {NAMES[dataset]}, all text {brings(gap)} where the encoder {BACKBONES[backbone]}{told}."
        between = measured.gap_of_gaps(pairs[KNOWING], pairs[STRICT]) if len(gaps) == len(BACKBONES) else None
        if between is not None:
            told = {
                1: "it gains from words that are known",
                -1: "it loses by words that are known",
                0: "nothing can be told",
            }
            yield f"The difference between both is {between}: {told[between.sign]}."


def _of_parts(measured: Measured) -> Iterable[str]:
    """What each part brings, the largest first, and which cannot be told."""
    for board in BOARDS:
        gaps = part_gaps(measured, board)
        told = {row: gap for row, gap in gaps.items() if gap.sign and row != NO_TEXT}
        ranked = sorted(told, key=lambda row: (-abs(told[row].points), row))
        if ranked:
            yield f"On {board.title}: {'; '.join(f'{PARTS[row]} {told[row]}' for row in ranked)}."
        open_ones = [PARTS[row] for row, gap in gaps.items() if not gap.sign]
        if open_ones:
            yield f"On {board.title}, nothing can be told of: {'; '.join(open_ones)}."


def part_gaps(measured: Measured, board: Board) -> dict[str, Gap]:
    """MA-CLIP minus MA-CLIP without a part, by the row without it."""
    rows = PARTS if board.backbone == KNOWING else dict.fromkeys(TEXT_PARTS)
    whole = board.place(MA_CLIP)
    return {row: gap for row in rows if (gap := measured.gap(whole, board.place(row))) is not None}


def _of_episodes(measured: Measured) -> Iterable[str]:
    """What longer training brings to each method, and whether MA-CLIP's place depends on it."""
    for dataset in (ORDER, SCENE):
        longest = max(TIMES)
        gains = [
            f"{TITLES[row]} {gap}"
            for row in FOLLOWED
            if (gap := measured.gap(Place(row, dataset, times=longest), Place(row, dataset))) is not None
        ]
        if gains:
            yield f"On {NAMES[dataset]}, {longest} times the training changes accuracy by: {'; '.join(gains)}."
        for rival in FOLLOWED:
            gaps = rival_gaps(measured, rival, dataset)
            if rival != MA_CLIP and len(gaps) > 1:
                yield _place_of_rival(rival, dataset, gaps)
        for rival in (OTAM, CLIP_FSAR):
            yield from _of_less_training(measured, rival, dataset)


def _of_less_training(measured: Measured, rival: str, dataset: str) -> Iterable[str]:
    """Whether MA-CLIP gets by with the share of a rival's training episodes that table 9 of its paper has on SSv2-Small."""
    gap = measured.gap(Place(MA_CLIP, dataset), Place(rival, dataset, times=LESS))
    if gap is not None:
        yield (
            f"MA-CLIP after 1 x minus {TITLES[rival]} after {LESS} x on {NAMES[dataset]}: {gap}. That a quarter of the "
            f"training is enough {VERDICTS[gap.sign]}."
        )


def _of_parameters(measured: Measured) -> Iterable[str]:
    """What MA-CLIP reaches with its share of the parameters that others train."""
    for dataset in (ORDER, SCENE):
        adapted = measured.accuracy(Place(MA_CLIP, dataset))
        for rival in LEARNERS[1:]:
            other = measured.accuracy(Place(rival, dataset))
            gap = measured.gap(Place(MA_CLIP, dataset), Place(rival, dataset))
            if adapted and other and gap:
                share = 100 * adapted.parameters / other.parameters
                yield (
                    f"MA-CLIP trains {adapted.parameters / 1e6:.2f} M parameters, {share:.0f} % of the "
                    f"{other.parameters / 1e6:.2f} M of {TITLES[rival]}; on {NAMES[dataset]} its accuracy differs by {gap}."
                )


def rival_gaps(measured: Measured, rival: str, dataset: str) -> dict[int, Gap]:
    """MA-CLIP minus another method after the same number of training episodes, by the multiple of the short training."""
    pairs = {times: (Place(MA_CLIP, dataset, times=times), Place(rival, dataset, times=times)) for times in TIMES}
    return {times: gap for times, pair in pairs.items() if (gap := measured.gap(*pair)) is not None}


def _place_of_rival(rival: str, dataset: str, gaps: dict[int, Gap]) -> str:
    signs = {gap.sign for gap in gaps.values()} - {0}
    told = "; ".join(f"{gap} at {times} x" for times, gap in gaps.items())
    if signs == {1, -1}:
        result = "which is better depends on the training"
    elif signs:
        result = f"{'MA-CLIP' if signs == {1} else TITLES[rival]} is better wherever the difference can be told"
    else:
        result = "no difference can be told at any length"
    return f"MA-CLIP minus {TITLES[rival]} on {NAMES[dataset]}: {told}: {result}."


def setting_gaps(measured: Measured, dataset: str) -> dict[str, Gap]:
    """MA-CLIP with one setting changed minus MA-CLIP, on val; changes to what is the default are left out."""
    default = Place(MA_CLIP, dataset, split="val")
    out = {}
    for change in UNKNOWNS:
        place = Place(f"ma_clip {change}", dataset, split="val")
        is_default = measured.design.of_place(place)[0].hash == measured.design.of_place(default)[0].hash
        gap = None if is_default else measured.gap(place, default)
        if gap is not None:
            out[change] = gap
    return out


def _of_settings(measured: Measured) -> Iterable[str]:
    """Which settings matter, corrected for how many were tried."""
    for dataset in (ORDER, SCENE):
        gaps = setting_gaps(measured, dataset)
        if not gaps:
            continue
        matters = [change for change, is_one in zip(gaps, significant(list(gaps.values())), strict=True) if is_one]
        widths = sorted(gap.width for gap in gaps.values() if gap.width is not None)
        seen = f"; the intervals are ± {widths[len(widths) // 2]:.1f} in the middle" if widths else ""
        count = "1 setting" if len(gaps) == 1 else f"{len(gaps)} settings"
        told = "; ".join(f"`{change}` {gaps[change]}" for change in matters) or "none"
        yield f"Of {count} tried on {NAMES[dataset]}, these matter (Holm): {told}{seen}."
