"""Which charts a report has: the model's aggregates, place by place, as figures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence, Sized

from vlpeft.results.report.data import Model, ResultPlace, Score, TrackedCurves
from vlpeft.results.report.figures import Figure, FigureRow, SeriesWay, lines, sites, strips
from vlpeft.results.report.scatter import Dot, scatter

SHOWN_LINES = 12  # more cannot be told apart
SHOWN_ROWS = 40
NAMED = 6  # methods that a caption names
ChartColumn = tuple[str, str, str, str]  # backbone, task, dataset, metric


def pareto(model: Model) -> list[Figure]:
    """Each score against trainable parameters, training time and memory."""
    planned = _planned(model)
    columns = _columns(model).items()
    return [
        figure
        for column, scores in columns
        for figure in _pareto(column, scores, planned[column], model)
    ]


def _pareto(
    column: ChartColumn, scores: Sequence[Score], planned: Sequence[Score], model: Model
) -> Iterator[Figure]:
    """A front says that no method is better, so there is none where a method has no dot."""
    costs = (
        ("trainable parameters", "", [score.entry.trainable for score in scores]),
        ("training time", "s", [score.seconds for score in scores]),
        ("peak memory", "MB", [score.memory for score in scores]),
    )
    for name, unit, values in costs:
        pairs = zip(scores, values, strict=True)
        dots = [
            _dot(score, value, model)
            for score, value in pairs
            if value is not None and score.entry.mean is not None
        ]
        if dots:
            title, without = f"{column[3]} by {name}", _without(planned, [dot.name for dot in dots])
            last = (
                f"no Pareto front, which might change {without}"
                if without
                else "line: Pareto front"
            )
            caption = f"n = {len(dots)} methods, mean over {_seeds(scores)}; bars: ± 1 std; {last}"
            about = {"title": title, "caption": caption, **_where(column)}
            yield scatter(dots, (name, unit), _unit(column[3]), whole=not without, **about)


def _dot(score: Score, cost: float, model: Model) -> Dot:
    entry = score.entry
    return Dot(entry.method, model.methods.index(entry.method), cost, entry.mean or 0.0, entry.std)


def spread(model: Model) -> list[Figure]:
    """Every seed's score, method by method."""
    planned = _planned(model)
    return [
        _strips(column, scores, planned[column], model)
        for column, scores in _columns(model).items()
    ]


def _strips(
    column: ChartColumn, scores: Sequence[Score], planned: Sequence[Score], model: Model
) -> Figure:
    best = sorted(scores, key=lambda score: -(score.entry.mean or 0.0))[:SHOWN_ROWS]
    rows = [
        FigureRow(score.entry.method, model.methods.index(score.entry.method), score.values)
        for score in best
    ]
    without = _without(planned, [score.entry.method for score in scores])
    caption = "; ".join(
        filter(
            None,
            (
                f"n = {_shown(rows, scores)}, {_seeds(scores)} each",
                "dot: one seed, bar: their mean",
                without,
            ),
        )
    )
    return strips(rows, _unit(column[3]), title=column[3], caption=caption, **_where(column))


def curves(model: Model) -> list[Figure]:
    """Training loss, and where an epoch was chosen its scores, over the steps or epochs."""
    figures = []
    for each in model.curves:
        ranked = _ranked(model, each.backbone, each.data)
        names = sorted(each.lines, key=lambda name: ranked.get(name, len(ranked)))[:SHOWN_LINES]
        ways = [
            SeriesWay(name, model.methods.index(name), each.lines[name].points)
            for name in names
            if each.lines[name].points
        ]
        if ways:
            loss = each.name == "training loss"
            seeds = _range([each.lines[way.name].n for way in ways])
            figures.append(
                lines(
                    ways,
                    "optimizer step" if loss else "epoch",
                    "training loss" if loss else f"{each.name} (%)",
                    log=loss,
                    title=each.name[0].upper() + each.name[1:],
                    caption=f"n = {_shown(ways, each.lines)}, mean over {seeds}",
                    backbone=each.backbone,
                    data=each.data,
                )
            )
    return figures


def last_sites(model: Model) -> list[Figure]:
    """p and mu of each site at the end of training, all settings of a backbone together."""
    found: dict[tuple[str, str, tuple[str, ...]], list[TrackedCurves]] = {}
    for each in model.followed:
        found.setdefault(
            (each.backbone, each.quantity, tuple(site.name for site in each.sites)), []
        ).append(each)
    return [_last(*key, settings) for key, settings in found.items()]


def _last(
    backbone: str, quantity: str, names: Sequence[str], settings: Sequence[TrackedCurves]
) -> Figure:
    ways = [
        (f"{each.method}, {each.data}", [site.last for site in each.sites]) for each in settings
    ]
    seeds = _range([len(site.last) for each in settings for site in each.sites])
    caption = f"n = {len(ways)} setting{'s' if len(ways) > 1 else ''}, {seeds} each; dot: one seed, line: their mean"
    title = f"{quantity} after training"
    return sites(
        ways,
        list(map(_site, names)),
        f"{quantity} (no unit)",
        title=title,
        caption=caption,
        backbone=backbone,
        data="",
    )


def tracked_charts(model: Model) -> list[Figure]:
    """p and mu of each site during training, one chart a setting."""
    return [_course(each) for each in model.followed]


def _course(each: TrackedCurves) -> Figure:
    kept = [
        each.sites[round(i * (len(each.sites) - 1) / (SHOWN_LINES - 1))] for i in range(SHOWN_LINES)
    ]
    shown = each.sites if len(each.sites) <= SHOWN_LINES else kept
    figure = lines(
        [
            SeriesWay(_site(site.name), number, site.line.points)
            for number, site in enumerate(shown)
        ],
        "optimizer step",
        f"{each.quantity} (no unit)",
        title=f"{each.quantity} of {each.method}",
        caption=f"n = {_shown(shown, each.sites, 'sites', '')}, mean over {_range([site.line.n for site in shown])}",
        backbone=each.backbone,
        data=each.data,
    )
    return figure.local(tuple((number, _site(site.name)) for number, site in enumerate(shown)))


def _columns(model: Model) -> dict[ChartColumn, list[Score]]:
    """Scores with a mean, by column."""
    found: dict[ChartColumn, list[Score]] = {}
    for score in model.main:
        if score.entry.mean is not None and score.values and not score.entry.flags:
            found.setdefault((*score.place, score.entry.metric), []).append(score)
    return found


def _planned(model: Model) -> dict[ChartColumn, list[Score]]:
    """What the plan promises, by column: scores with a mean and without, but not those that the grid rules out."""
    found: dict[ChartColumn, list[Score]] = {}
    for score in model.main:
        if not score.entry.state.startswith("skipped"):
            found.setdefault((*score.place, score.entry.metric), []).append(score)
    return found


def _without(planned: Iterable[Score], drawn: Collection[str]) -> str:
    """Which planned methods are not drawn, and why; "" where all are."""
    left_out = [
        f"{score.entry.method} ({_why(score)})"
        for score in planned
        if score.entry.method not in drawn
    ]
    more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
    return f"without {', '.join(left_out[:NAMED])}{more}" if left_out else ""


def _why(score: Score) -> str:
    if score.entry.mean is None:
        return score.entry.state.partition(": ")[0]
    return "suspicious value" if score.entry.flags else "cost not measured"


def _ranked(model: Model, backbone: str, data: str) -> dict[str, int]:
    """Methods by their first metric on what they were trained on first, the best first."""
    place: ResultPlace | None = None
    means: dict[str, float] = {}
    for score in model.main:
        there = f"{score.entry.task}/{score.entry.dataset.partition(' (joint: ')[0]}"
        if (
            score.entry.backbone == backbone
            and data.split(" + ", 1)[0] == there
            and score.entry.mean is not None
        ):
            place = place or score.place
            if score.place == place:
                means.setdefault(score.entry.method, score.entry.mean)
    return {name: rank for rank, name in enumerate(sorted(means, key=lambda name: -means[name]))}


def _where(column: ChartColumn) -> dict[str, str]:
    return {"backbone": column[0], "data": f"{column[1]}/{column[2]}"}


def _unit(metric: str) -> str:
    return (
        f"{metric} (x 100)"
        if metric.startswith(("CIDEr", "BLEU", "METEOR", "SPICE"))
        else f"{metric} (%)"
    )


def _seeds(scores: Sequence[Score]) -> str:
    return _range([score.entry.n for score in scores])


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} seed{'s' if high > 1 else ''}"


def _shown(shown: Sized, every: Sized, what: str = "methods", which: str = "the best ") -> str:
    return (
        f"{len(shown)} {what}"
        if len(shown) == len(every)
        else f"{which}{len(shown)} of {len(every)} {what}"
    )


def _site(name: str) -> str:
    """`encoder.0.self` as "enc 0 self"."""
    where, _, what = name.rpartition(".")
    return f"{where.replace('encoder.', 'enc ').replace('decoder.', 'dec ').replace('layer.', '')} {what}".strip()
