"""Charts of scores over a number that the sweep varies, such as the learning rate or the rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vlpeft.benchmark.metrics import unit_of
from vlpeft.benchmark.plan.vary import label_values
from vlpeft.results.report.charts import SHOWN_LINES
from vlpeft.results.report.data import ReportModel, Score
from vlpeft.results.report.dotted import Dots, dotted_lines
from vlpeft.results.report.figures import Figure
from vlpeft.results.varied import VARIED

Column = tuple[str, str, str, str]  # backbone, task, dataset, metric
Labels = tuple[str, str, str]  # method, backbone, dataset


@dataclass
class _Chart:
    """Lines of one chart: for each name, the scores by the number that varies."""

    lines: dict[str, dict[float, Score]] = field(default_factory=dict)

    def best_first(self) -> list[str]:
        """Return the names of lines with two points or more, by their highest score."""
        drawn = {name: scores for name, scores in self.lines.items() if len(scores) > 1}
        return sorted(drawn, key=lambda name: -max(map(_mean, drawn[name].values())))


def varied_charts(model: ReportModel) -> list[Figure]:
    """Draw scores over each number that varies: a chart a column, a line for what else differs."""
    settings = _settings(model)
    figures: list[Figure] = []
    for key in _numbers(settings):
        for column, chart in _charts(model, settings, key).items():
            names = chart.best_first()
            if names:
                figures.append(_draw(key, column, chart, names))
    return figures


def _settings(model: ReportModel) -> dict[Labels, dict[str, str]]:
    """Return what varies in each combination of labels, with its values."""
    columns = {key: f"{VARIED}{key}" for key in model.board.varied}
    found: dict[Labels, dict[str, str]] = {}
    for row in model.board.frame.to_dict("records"):
        labels = row["method"], row["backbone"], row["dataset"]
        if labels not in found:
            found[labels] = {key: row[column] for key, column in columns.items() if row[column]}
    return found


def _numbers(settings: Mapping[Labels, Mapping[str, str]]) -> Iterator[str]:
    """Yield the keys whose values are numbers, at least two of them."""
    values: dict[str, set[str]] = {}
    for each in settings.values():
        for key, value in each.items():
            values.setdefault(key, set()).add(value)
    for key, texts in values.items():
        if len(texts) > 1 and all(_number(text) is not None for text in texts):
            yield key


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _charts(
    model: ReportModel, settings: Mapping[Labels, Mapping[str, str]], key: str
) -> dict[Column, _Chart]:
    """Collect the lines over one number by column."""
    charts: dict[Column, _Chart] = {}
    board = model.board
    for score in model.main:
        entry = score.entry
        values = settings[entry.method, entry.backbone, entry.dataset]
        if key not in values or entry.mean is None or entry.flags:
            continue
        backbone = board.family("backbone", entry.backbone)
        dataset = board.family("dataset", entry.dataset)
        method = board.family("method", entry.method)
        others = {name: value for name, value in values.items() if name != key}
        chart = charts.setdefault((backbone, entry.task, dataset, entry.metric), _Chart())
        line = chart.lines.setdefault(label_values(method, others), {})
        line[float(values[key])] = score
    return charts


def _draw(key: str, column: Column, chart: _Chart, names: list[str]) -> Figure:
    """Draw one chart."""
    backbone, task, dataset, metric = column
    shown = names[:SHOWN_LINES]
    ways = []
    for number, name in enumerate(shown):
        points = sorted(chart.lines[name].items())
        spread = [score.entry.std or 0.0 for _, score in points]
        ways.append(Dots(name, number, [(x, _mean(score)) for x, score in points], spread))
    what = "1 line" if len(shown) == 1 else f"{len(shown)} lines"
    if len(shown) < len(names):
        what = f"the best {len(shown)} of {len(names)} lines"
    figure = dotted_lines(
        ways,
        key,
        f"{metric} ({unit_of(metric)})",
        title=f"{metric} by {key}",
        caption=f"n = {what}; dot: mean over seeds, bar: ± 1 std",
        backbone=backbone,
        data=f"{task}/{dataset}",
    )
    return figure.local(tuple(enumerate(shown)))


def _mean(score: Score) -> float:
    return score.entry.mean or 0.0
