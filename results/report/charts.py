"""The charts of a report: aggregates of the model, place by place, as figures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence, Sized

from vlpeft.benchmark.metrics import unit_of
from vlpeft.results.compatible import JOINT
from vlpeft.results.report.data import (
    Curves,
    ReportModel,
    ResultPlace,
    Score,
    SiteCurve,
    TrackedCurves,
    thinned,
)
from vlpeft.results.report.figures import ChartLine, Figure, FigureRow, lines, sites, strips
from vlpeft.results.report.scatter import Dot, scatter

SHOWN_LINES = 12  # more lines look alike
SHOWN_ROWS = 40
NAMED = 6  # methods that a caption names
ChartColumn = tuple[str, str, str, str]  # backbone, task, dataset, metric


def pareto(model: ReportModel) -> list[Figure]:
    """Draw each score against trainable parameters, training time and memory."""
    planned = _planned(model)
    figures: list[Figure] = []
    for column, scores in _columns(model).items():
        figures += _pareto(column, scores, planned[column], model)
    return figures


def _pareto(
    column: ChartColumn, scores: Sequence[Score], planned: Sequence[Score], model: ReportModel
) -> Iterator[Figure]:
    """Yield the charts of one column, one a cost that was measured.

    A front claims that no method is better. So there is none where a method has no dot.
    """
    metric = column[3]
    costs = (
        ("trainable parameters", "", [score.entry.trainable for score in scores]),
        ("training time", "s", [score.seconds for score in scores]),
        ("peak memory", "MB", [score.memory for score in scores]),
    )
    for name, unit, values in costs:
        dots = []
        for score, value in zip(scores, values, strict=True):
            if value is not None and score.entry.mean is not None:
                dots.append(_dot(score, value, model))
        if not dots:
            continue
        without = _without(planned, [dot.name for dot in dots])
        last = "line: Pareto front"
        if without:
            last = f"no Pareto front, which might change {without}"
        yield scatter(
            dots,
            (name, unit),
            _with_unit(metric),
            whole=not without,
            title=f"{metric} by {name}",
            caption=f"n = {len(dots)} methods, mean over {_seeds(scores)}; bars: ± 1 std; {last}",
            **_where(column),
        )


def undrawn(model: ReportModel) -> list[str]:
    """Return a sentence for each score of the plan that no chart shows, with the reason."""
    drawn = _columns(model)
    sentences = []
    for column, planned in _planned(model).items():
        if column not in drawn:
            backbone, task, dataset, metric = column
            reason = _without(planned, ())
            sentences.append(f"{metric} on {backbone}, {task}/{dataset}: {reason}")
    return sentences


def _dot(score: Score, cost: float, model: ReportModel) -> Dot:
    entry = score.entry
    return Dot(entry.method, model.methods.index(entry.method), cost, entry.mean or 0.0, entry.std)


def spread(model: ReportModel) -> list[Figure]:
    """Draw every seed's score, method by method."""
    planned = _planned(model)
    columns = _columns(model).items()
    return [_strips(column, scores, planned[column], model) for column, scores in columns]


def _strips(
    column: ChartColumn, scores: Sequence[Score], planned: Sequence[Score], model: ReportModel
) -> Figure:
    """Draw the seeds of one column, a row a method."""
    best = sorted(scores, key=lambda score: -(score.entry.mean or 0.0))[:SHOWN_ROWS]
    rows = []
    for score in best:
        method = score.entry.method
        rows.append(FigureRow(method, model.methods.index(method), score.values))
    parts = [f"n = {_shown(rows, scores)}, {_seeds(scores)} each", "dot: one seed, bar: their mean"]
    without = _without(planned, [score.entry.method for score in scores])
    if without:
        parts.append(without)
    metric, where = column[3], _where(column)
    return strips(rows, _with_unit(metric), title=metric, caption="; ".join(parts), **where)


def curves(model: ReportModel) -> list[Figure]:
    """Draw the training losses, and scores over epochs where epochs were compared."""
    figures = []
    for each in model.curves:
        series = _lines(each, model)
        if series:
            figures.append(_curve(each, series))
    return figures


def _lines(each: Curves, model: ReportModel) -> list[ChartLine]:
    """Return the lines of the best methods."""
    ranked = _ranked(model, each.backbone, each.data)
    names = sorted(each.lines, key=lambda name: ranked.get(name, len(ranked)))[:SHOWN_LINES]
    series = []
    for name in names:
        points = each.lines[name].points
        if points:
            series.append(ChartLine(name, model.methods.index(name), points))
    return series


def _curve(each: Curves, series: Sequence[ChartLine]) -> Figure:
    is_loss = each.name == "training loss"
    x_title, y_title = "epoch", f"{each.name} (%)"
    if is_loss:
        x_title, y_title = "optimizer step", "training loss"
    seeds = _range([each.lines[own.name].n for own in series])
    return lines(
        series,
        x_title,
        y_title,
        log=is_loss,
        title=each.name[0].upper() + each.name[1:],
        caption=f"n = {_shown(series, each.lines)}, mean over {seeds}",
        backbone=each.backbone,
        data=each.data,
    )


def last_sites(model: ReportModel) -> list[Figure]:
    """Draw p and mu of each site at the end of training, one chart for all settings."""
    found: dict[tuple[str, str, tuple[str, ...]], list[TrackedCurves]] = {}
    for each in model.followed:
        names = tuple(site.name for site in each.sites)
        found.setdefault((each.backbone, each.quantity, names), []).append(each)
    return [_last(*key, settings) for key, settings in found.items()]


def _last(
    backbone: str, quantity: str, names: Sequence[str], settings: Sequence[TrackedCurves]
) -> Figure:
    """Draw the last values of one quantity on one backbone."""
    series = []
    counts: list[int] = []
    for each in settings:
        last = [site.last for site in each.sites]
        series.append((f"{each.method}, {each.data}", last))
        counts += map(len, last)
    what = "settings" if len(series) > 1 else "setting"
    return sites(
        series,
        list(map(_site, names)),
        f"{quantity} (no unit)",
        title=f"{quantity} after training",
        caption=f"n = {len(series)} {what}, {_range(counts)} each; dot: one seed, line: the mean",
        backbone=backbone,
        data="",
    )


def tracked_charts(model: ReportModel) -> list[Figure]:
    """Draw p and mu of each site during training, one chart a setting."""
    return [_course(each) for each in model.followed]


def _course(each: TrackedCurves) -> Figure:
    """Draw one quantity of one method over the steps, a line a site."""
    shown: list[SiteCurve] = thinned(each.sites, SHOWN_LINES)
    series, legend = [], []
    for number, site in enumerate(shown):
        name = _site(site.name)
        series.append(ChartLine(name, number, site.line.points))
        legend.append((number, name))
    seeds = _range([site.line.n for site in shown])
    figure = lines(
        series,
        "optimizer step",
        f"{each.quantity} (no unit)",
        title=f"{each.quantity} of {each.method}",
        caption=f"n = {_shown(shown, each.sites, 'sites', '')}, mean over {seeds}",
        backbone=each.backbone,
        data=each.data,
    )
    return figure.local(tuple(legend))


def _columns(model: ReportModel) -> dict[ChartColumn, list[Score]]:
    """Group scores that have a mean by column."""
    found: dict[ChartColumn, list[Score]] = {}
    for score in model.main:
        entry = score.entry
        if entry.mean is not None and score.values and not entry.flags:
            found.setdefault((*score.place, entry.metric), []).append(score)
    return found


def _planned(model: ReportModel) -> dict[ChartColumn, list[Score]]:
    """Group by column the scores that the plan promises, with or without a mean."""
    found: dict[ChartColumn, list[Score]] = {}
    for score in model.main:
        if not score.entry.state.is_skipped:
            found.setdefault((*score.place, score.entry.metric), []).append(score)
    return found


def _without(planned: Iterable[Score], drawn: Collection[str]) -> str:
    """Return which planned methods are not drawn, and why; "" if all are."""
    left_out = [score for score in planned if score.entry.method not in drawn]
    if not left_out:
        return ""
    listed = ", ".join(f"{score.entry.method} ({_why(score)})" for score in left_out[:NAMED])
    if len(left_out) > NAMED:
        return f"without {listed} and {len(left_out) - NAMED} more"
    return f"without {listed}"


def _why(score: Score) -> str:
    if score.entry.mean is None:
        return score.entry.state.kind
    if score.entry.flags:
        return "suspicious value"
    return "cost not measured"


def _ranked(model: ReportModel, backbone: str, data: str) -> dict[str, int]:
    """Rank methods by their first metric on the first task that they were trained on."""
    wanted = data.split(" + ", 1)[0]
    place: ResultPlace | None = None
    means: dict[str, float] = {}
    for score in model.main:
        entry = score.entry
        there = f"{entry.task}/{entry.dataset.partition(JOINT)[0]}"
        if (entry.backbone, there) != (backbone, wanted) or entry.mean is None:
            continue
        place = place or score.place
        if score.place == place:
            means.setdefault(entry.method, entry.mean)
    best_first = sorted(means, key=lambda name: -means[name])
    return {name: rank for rank, name in enumerate(best_first)}


def _where(column: ChartColumn) -> dict[str, str]:
    return {"backbone": column[0], "data": f"{column[1]}/{column[2]}"}


def _with_unit(metric: str) -> str:
    return f"{metric} ({unit_of(metric)})"


def _seeds(scores: Sequence[Score]) -> str:
    return _range([score.entry.n for score in scores])


def _range(counts: Sequence[int]) -> str:
    """Return a number of seeds, or a range."""
    low, high = min(counts), max(counts)
    seeds = "seeds" if high > 1 else "seed"
    if low == high:
        return f"{low} {seeds}"
    return f"{low} to {high} {seeds}"


def _shown(shown: Sized, every: Sized, what: str = "methods", which: str = "the best ") -> str:
    """Return how many are shown, and of how many."""
    if len(shown) == len(every):
        return f"{len(shown)} {what}"
    return f"{which}{len(shown)} of {len(every)} {what}"


def _site(name: str) -> str:
    """Return the short name of a site: `encoder.0.self` becomes "enc 0 self"."""
    where, _, what = name.rpartition(".")
    for word, short in (("encoder.", "enc "), ("decoder.", "dec "), ("layer.", "")):
        where = where.replace(word, short)
    return f"{where} {what}".strip()
