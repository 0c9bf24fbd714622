"""The parsed report page: complete without a network, repeatable, and only measured values."""

import base64
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report_samples import DATA, METHODS, NASTY, fill, plan, predictions
from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.cells.records import Store, read_record
from vlpeft.benchmark.core.axes import Axis, short_number
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.report import data, examples
from vlpeft.results.report.data import ReadOnce, gather, line
from vlpeft.results.report.examples import browsers
from vlpeft.results.report.figures import COLOURS, FigureRow, strips
from vlpeft.results.report.page import write_report
from vlpeft.results.report.scatter import Box, Dot, front, scatter

VOID = {"meta", "link", "input", "br", "img", "path", "image", "use"}


class Page(HTMLParser):
    """The elements of a page in order, with attributes and direct text.

    It reports tags that do not match.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.inside: dict[int, str] = {}
        self.open: list[tuple[str, int]] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID or (tag == "path" and not self.get_starttag_text().endswith("/>")):
            self.open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        opened, _ = self.open.pop()
        assert opened == tag, (opened, tag)

    def handle_data(self, data) -> None:
        self.texts.append(data)
        for _, number in self.open:
            self.inside[number] = self.inside.get(number, "") + data

    def all(self, tag, **wanted) -> list[tuple[dict, str]]:
        """Return attributes and text of the elements with this tag and these attributes."""
        found = [
            (attrs, " ".join(self.inside.get(i, "").split()))
            for i, (name, attrs) in enumerate(self.elements)
            if name == tag
        ]
        return [
            (attrs, text)
            for attrs, text in found
            if all(attrs.get(key.replace("_", "-")) == value for key, value in wanted.items())
        ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the result folder, its plan and the text of the page."""
    root = tmp_path_factory.mktemp("root")
    launched = fill(root, plan())
    (path,) = write_report([(launched, Store(root))], tmp_path_factory.mktemp("out"), 8)
    return root, launched, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(made) -> Page:
    return Page(made[2])


def embedded(page: Page) -> dict:
    ((_, text),) = page.all("script", id="data")
    return json.loads(text)


# --- the file ---


def test_nothing_is_loaded(made, page):
    addresses = [
        value
        for _, attrs in page.elements
        for key, value in attrs.items()
        if key in ("src", "href", "action", "srcset", "data")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    ((_, style),) = page.all("style")
    assert not re.search(r"url\(|@import", style)
    ((policy, _),) = page.all("meta", http_equiv="Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert "http" not in policy["content"]


def test_the_policy_allows_only_the_script_of_the_page(made, page):
    (script,) = re.findall(r'<script type="module">(.*?)</script>', made[2], re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ((policy, _),) = page.all("meta", http_equiv="Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy["content"]
    assert not any(key.startswith("on") for _, attrs in page.elements for key in attrs)


def test_text_of_people_and_models_is_escaped(made, page):
    assert NASTY not in made[2]
    assert [tag for tag, _ in page.elements].count("img") == 0
    assert any(NASTY in text for text in page.texts)
    assert f"odd {NASTY}" in {row[1] for row in embedded(page)["scores"]["rows"]}


def test_half_a_character_does_not_break_a_page(tmp_path):
    launched = fill(tmp_path, plan())
    path = Store(tmp_path).folder(launched.cells[0].id) / "predictions.jsonl"
    path.write_text(path.read_text().replace('"prediction": "', '"prediction": "\\ud83d'))
    (page,) = write_report([(launched, Store(tmp_path))], tmp_path / "out")
    assert "\\ud83d" in page.read_text(encoding="utf-8")


def test_the_same_records_give_the_same_bytes_in_any_folder(made, tmp_path):
    launched = fill(tmp_path / "elsewhere", plan())
    (path,) = write_report([(launched, Store(tmp_path / "elsewhere"))], tmp_path / "out", 8)
    assert path.read_text(encoding="utf-8") == made[2]


def test_ids_are_unique_and_every_reference_has_a_target(page):
    ids = Counter(attrs["id"] for _, attrs in page.elements if "id" in attrs)
    assert [name for name, times in ids.items() if times > 1] == []
    wanted = {
        attrs["href"][1:] for _, attrs in page.elements if attrs.get("href", "").startswith("#")
    }
    wanted |= {
        name for _, attrs in page.elements for name in attrs.get("aria-labelledby", "").split()
    }
    assert wanted <= set(ids)


def test_several_sweeps_have_an_index(made, tmp_path):
    root, launched, text = made
    other = replace(launched, sweep="paper/table@tiny", title="Another")
    index, first, second = write_report(
        [(launched, Store(root)), (other, Store(root))], tmp_path, 8
    )
    assert (first.read_text(encoding="utf-8"), second.name) == (text, "paper-table@tiny.html")
    links = Page(index.read_text(encoding="utf-8")).all("a")
    assert [(attrs["href"], said) for attrs, said in links[1:]] == [
        ("made.html", "A made sweep (tiny towers, embedded data)"),
        ("paper-table@tiny.html", "Another (tiny towers, embedded data)"),
    ]


def test_no_page_overwrites_another(made, tmp_path):
    sweeps = [
        (replace(made[1], sweep=name), Store(made[0])) for name in ("index", "a/b", "a-b", "A-B")
    ]
    assert [path.name for path in write_report(sweeps, tmp_path, 0)] == [
        "index.html",
        "index-2.html",
        "a-b.html",
        "a-b-2.html",
        "A-B-3.html",
    ]


def test_a_folder_that_cannot_be_written_is_named(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file.*-o"):
        write_report([(made[1], Store(made[0]))], tmp_path / "file", 0)


# --- text ---


def test_the_title_names_small_parts(page):
    title = "A made sweep (tiny towers, embedded data)"
    assert {page.all("title")[0][1], page.all("h1")[0][1]} == {title}
    ((_, warning),) = page.all("p", **{"class": "label-small"})
    assert warning.startswith("Tiny towers, embedded data")


def test_cells_are_counted_by_state(page):
    assert embedded(page)["cells"] == {"done": 12, "failed": 1, "missing": 1, "skipped": 2}
    tiles = [text for _, text in page.all("li")]
    assert {"12 cells done", "1 cell failed", "1 cell missing", "2 cells skipped"} <= set(tiles)


def test_the_leaderboard_has_no_mean_of_some_seeds(page):
    rows = {
        (attrs.get("data-method"), text) for attrs, text in page.all("tr") if "data-method" in attrs
    }
    assert any(method == "lora" and text.startswith("lora 50.5 ± 0.7") for method, text in rows)
    assert any(method == "lora" and text.startswith("lora failed") for method, text in rows)
    columns, *_ = [embedded(page)["scores"]["columns"]]
    found = [dict(zip(columns, row, strict=True)) for row in embedded(page)["scores"]["rows"]]
    undone = [
        row
        for row in found
        if (row["method"], row["backbone"], row["metric"]) == ("lora", "gpt2", "vqa_accuracy")
    ]
    assert [(row["mean"], row["std"], row["n"], row["values"]) for row in undone] == [
        (None, None, 0, [])
    ]


def test_failures_are_listed_by_cause_and_reasons_by_kind(page):
    rows = [text for _, text in page.all("tr")]
    assert any(text.startswith("out of memory 1 lora wanted 3 GB </script>") for text in rows)
    assert any(text.startswith("skipped 2 gpt2 has no bias") for text in rows)


def test_every_chart_has_a_title_a_description_labels_and_n(page):
    figures = [text for attrs, text in page.all("figure", **{"class": "chart"})]
    assert (
        len(figures) == 2 * 3 + 2 + 2 + 2 * 2 + 2 * 2
    )  # costs, seeds, curves, p and mu at the end and during training
    assert all(re.search(r"n = \d+ ", text) and re.search(r"\d seeds", text) for text in figures)
    charts = [attrs for attrs, _ in page.all("svg", role="img") if "aria-labelledby" in attrs]
    assert len(charts) == len(figures)
    described = {
        attrs["id"]: text
        for tag in ("title", "desc")
        for attrs, text in page.all(tag)
        if "id" in attrs
    }
    assert all(described[name] for attrs in charts for name in attrs["aria-labelledby"].split())
    assert (
        len(page.all("text", **{"class": "axis"})) == 2 * len(figures) - 2
    )  # the names of methods label the other axis of strips


def test_the_legend_of_colours_shapes_and_shading_is_true(page, tmp_path):
    texts = [text for _, text in page.all("summary")]
    assert "4 methods: colours" in texts
    assert (
        sum(
            text.startswith("Shading: the stronger, the higher the value within its column")
            for _, text in page.all("p")
        )
        == 1
    )
    assert any(text == "vqa / small" for _, text in page.all("small"))
    launched = plan()
    cells = [replace(cell, row=f"m{i}") for i, cell in enumerate(launched.cells)]
    fill(tmp_path, launched)
    (path,) = write_report(
        [(replace(launched, cells=tuple(cells)), Store(tmp_path))], tmp_path / "out", 0
    )
    texts = [text for _, text in Page(path.read_text(encoding="utf-8")).all("summary")]
    assert len(cells) > COLOURS
    assert f"{len(cells)} methods: colours and shapes" in texts


def test_tables_and_sections_are_accessible_without_a_script(page):
    assert all("hidden" in attrs for attrs, _ in page.all("form"))
    assert all(attrs.get("scope") in ("col", "row") for attrs, _ in page.all("th"))
    assert all(
        attrs.get("tabindex") == "0" and attrs.get("aria-label")
        for attrs, _ in page.all("div", **{"class": "scroll"})
    )
    sections = {attrs["id"] for attrs, _ in page.all("section")}
    assert sections == {
        "leaderboard",
        "pareto",
        "seeds",
        "types",
        "curves",
        "followed",
        "failures",
        "predictions",
        "made",
    }


def test_published_numbers_appear_next_to_measured_ones(made, tmp_path):
    root, launched, _ = made
    (path,) = write_report(
        [(replace(launched, sweep="p_adapter/table2@tiny"), Store(root))], tmp_path, 0
    )
    shown = Page(path.read_text(encoding="utf-8"))
    assert "published" in {attrs["id"] for attrs, _ in shown.all("section")}
    assert sum(text.endswith("not run") for _, text in shown.all("tr")) > 10


def test_a_page_without_records_names_what_is_missing(tmp_path):
    (path,) = write_report([(plan(), Store(tmp_path))], tmp_path / "out")
    shown = Page(path.read_text(encoding="utf-8"))
    assert embedded(shown)["cells"] == {"done": 0, "failed": 0, "missing": 14, "skipped": 2}
    assert shown.all("figure") == []
    assert any(text.startswith("No cell has failed. 14 have not run") for _, text in shown.all("p"))


# --- aggregates ---


def test_each_record_is_read_once(made, monkeypatch):
    read = Counter()

    def counting(path):
        read[path.parent.name] += 1
        return read_record(path)

    monkeypatch.setattr("vlpeft.benchmark.cells.records.read_record", counting)
    store = ReadOnce(Store(made[0]))
    browsers(made[1], store, gather(made[1], store), 8)
    assert set(read.values()) == {1}
    assert len(read) == 12


def test_curves_are_means_at_common_steps_thinned_with_both_ends():
    one, other = [(s, 1.0 * s) for s in range(1, 1001)], [(s, 3.0 * s) for s in range(2, 1001)]
    found = line([one, other])
    assert (len(found.points), found.points[0], found.points[-1], found.n) == (
        data.POINTS,
        (2, 4.0),
        (1000, 2000.0),
        2,
    )


def test_a_page_does_not_grow_with_the_length_of_curves(made):
    model = gather(made[1], ReadOnce(Store(made[0])))
    assert {len(way.points) for curves in model.curves for way in curves.lines.values()} == {
        data.POINTS
    }


def test_sites_are_in_the_order_of_the_model(made):
    model = gather(made[1], ReadOnce(Store(made[0])))
    assert [(each.backbone, each.quantity) for each in model.followed] == [
        ("blip", "p"),
        ("blip", "mu"),
        ("gpt2", "p"),
        ("gpt2", "mu"),
    ]
    assert [site.name for site in model.followed[0].sites] == [
        "encoder.9.self",
        "encoder.9.cross",
        "encoder.10.self",
        "decoder.0.self",
    ]
    assert model.followed[0].sites[0].last == (pytest.approx(1.7), pytest.approx(2.7))


# --- charts ---


def test_no_point_beats_the_front():
    dots = [
        Dot(name, i, x, y, None)
        for i, (name, x, y) in enumerate(
            [("a", 1, 5), ("b", 2, 4), ("c", 2, 6), ("d", 3, 6), ("e", 4, 9)]
        )
    ]
    assert [dot.name for dot in front(dots)] == ["a", "c", "e"]
    assert [dot.name for dot in front([*dots, Dot("f", 5, 2, 6, None)])] == ["a", "c", "f", "e"], (
        "an equal one beats none"
    )


ABOUT = {"title": "t", "caption": "n"}


def test_methods_at_one_point_are_all_visible():
    dots = [
        Dot("lora", 0, 10.0, 50.0, 0.5),
        Dot("other", 1, 20.0, 40.0, 0.5),
        Dot("routing_lora", 2, 10.0, 50.0, None),
    ]
    figure = scatter(dots, ("cost", ""), "score", **ABOUT)
    first, second, alone = figure.marks
    assert (first.x, first.y) == (second.x, second.y)
    assert (first.method, second.method, alone.method) == (0, 2, 1)
    assert first.text == "lora: 50.0 ± 0.5 at 10 cost (one disc with routing_lora)"
    assert second.text == "routing_lora: 50.0 at 10 cost (one disc with lora)"
    assert "disc" not in alone.text
    # halves of one disc, the right one first
    assert first.shape == "M0 0L0.00 -5.50A5.5 5.5 0 0 1 0.00 5.50z"
    assert second.shape == "M0 0L0.00 5.50A5.5 5.5 0 0 1 -0.00 -5.50z"
    assert [(label.text, label.methods) for label in figure.labels] == [
        ("lora · routing_lora", (0, 2))
    ]
    assert "lora: 50.0 ± 0.5 at 10 cost; routing_lora: 50.0" in figure.about


def test_points_that_nearly_touch_share_a_disc_and_others_do_not():
    dots = [
        Dot("a", 0, 10.0, 50.0, None),
        Dot("b", 1, 10.0, 50.1, None),
        Dot("c", 2, 20.0, 10.0, None),
        Dot("d", 3, 10.0, 47.0, None),
    ]
    assert [mark.share for mark in scatter(dots, ("cost", ""), "score", **ABOUT).marks] == [
        (0, 2),
        (1, 2),
        (0, 1),
        (0, 1),
    ]


def test_names_overlap_neither_dots_nor_names():
    """A dot takes the place of the first dot's name."""
    dots = [
        Dot("the best of all", 0, 10.0, 50.0, None),
        Dot("k", 1, 12.0, 50.0, None),
        Dot("m", 2, 30.0, 40.0, None),
    ]
    figure = scatter([*dots, Dot("the next", 3, 30.0, 50.1, None)], ("cost", ""), "score", **ABOUT)
    boxes = [Box.of(label) for label in figure.labels]
    assert [label.text for label in figure.labels] == ["the next", "the best of all"]
    assert not boxes[0].meets(boxes[1])
    assert not any(
        box.meets(Box(mark.x - 5, mark.x + 5, mark.y - 5, mark.y + 5))
        for box in boxes
        for mark in figure.marks
    )


def test_many_names_at_one_point_become_a_number():
    dots = [Dot(f"a rather long name {i}", i, 10.0, 50.0, None) for i in range(5)]
    (label,) = scatter(dots, ("cost", ""), "score", **ABOUT).labels
    assert (label.text, label.methods) == ("a rather long name 0 +4", (0, 1, 2, 3, 4))


def test_a_label_represents_each_of_its_methods(tmp_path):
    """Two methods have equal parameters and scores.

    The script of the page finds both by the numbers of the label.
    """
    launched = fill(tmp_path, plan())
    for cell in launched.runnable():
        path = Store(tmp_path).folder(cell.id) / "record.json"
        if cell.backbone == "blip":
            found = json.loads(path.read_text())
            path.write_text(
                json.dumps(
                    {
                        **found,
                        "metrics": {"vqa_accuracy": 50.0},
                        "cost": {**found["cost"], "trainable": 1000},
                    }
                )
            )
    (path,) = write_report([(launched, Store(tmp_path))], tmp_path / "out", 0)
    shown = Page(path.read_text(encoding="utf-8"))
    assert "0 1 2 3" in {attrs["data-m"] for attrs, _ in shown.all("text", **{"class": "label"})}


def test_scores_without_a_chart_are_named_with_the_reason(tmp_path):
    launched = fill(tmp_path, plan())
    for cell in launched.runnable():
        path = Store(tmp_path).folder(cell.id) / "record.json"
        if path.exists() and cell.backbone == "blip":
            found = json.loads(path.read_text())
            absent = {"absent": "the split has one example"}
            path.write_text(
                json.dumps({**found, "metrics": dict.fromkeys(found["metrics"], absent)})
            )
    (path,) = write_report([(launched, Store(tmp_path))], tmp_path / "out", 0)
    text = path.read_text(encoding="utf-8")
    assert "Scores without a chart: vqa_accuracy on blip, " in text
    assert " (absent)" in text.partition("Scores without a chart")[2][:400]


@pytest.mark.parametrize(
    ("values", "log", "texts"),
    [
        ([0.0, 10.0], False, ["0", "2", "4", "6", "8", "10"]),
        ([1.0, 1000.0], True, ["1", "3", "10", "30", "100", "300", "1,000"]),
        ([0.0, 1000.0], True, ["0", "200", "400", "600", "800", "1,000"]),  # zero has no logarithm
        ([3.0], False, ["2.85", "2.9", "2.95", "3", "3.05", "3.1", "3.15"]),
        ([], False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
    ],
)
def test_axes_have_round_ticks_within(values, log, texts):
    axis = Axis.around("x", values, log=log)
    assert [text for _, text in axis.ticks()] == texts
    assert all(0 <= axis.at(value) <= 1 for value, _ in axis.ticks())


def test_numbers_on_axes_are_short():
    assert [short_number(value) for value in (0.05, 999, 1050, 20_000, 1_500_000)] == [
        "0.05",
        "999",
        "1,050",
        "20k",
        "1.5M",
    ]


def test_points_are_inside_their_chart():
    dots = [Dot(f"m{i}", i, 10.0**i, i * i - 3.0, 0.5) for i in range(6)]
    for figure in (
        scatter(dots, ("time", "s"), "score", **ABOUT),
        strips([FigureRow("m", 0, [1.0, 2.0]), FigureRow("k", 1, [3.0])], "x", **ABOUT),
    ):
        left, top, right, bottom = figure.box
        assert all(left <= mark.x <= right and top <= mark.y <= bottom for mark in figure.marks)


# --- predictions ---


def test_examples_are_those_with_most_disagreement_and_their_answers_are_grouped(made):
    store = ReadOnce(Store(made[0]))
    (found,) = browsers(made[1], store, gather(made[1], store), 4)
    assert len(found.shown) == 4
    assert found.n == len(predictions(made[1].cells[0]))
    assert found.series == tuple(
        (b, m)
        for b in ("blip", "gpt2")
        for m in METHODS
        if b == "blip" or m not in ("lora", "bitfit")
    )
    for shown in found.shown:
        assert shown.question
        assert shown.references
        assert sorted(i for answer in shown.answers for i in answer.by) == list(
            range(len(found.series))
        )
        assert [answer.score for answer in shown.answers] == sorted(
            (a.score for a in shown.answers), reverse=True
        )
    assert {len(shown.answers) for shown in found.shown} == {2}, "disagreement where there is some"


def test_better_answers_are_counted_over_all_examples(made):
    store = ReadOnce(Store(made[0]))
    (found,) = browsers(made[1], store, gather(made[1], store), 1)
    lora, best = 0, 3
    expected = sum(1 for i in range(found.n) if 0 < i % 5 <= 3)
    assert (found.better[best][lora], found.better[lora][best], found.equal[best][lora]) == (
        expected,
        0,
        found.n - expected,
    )


def test_examples_that_only_one_backbone_has_are_not_compared(tmp_path):
    launched = fill(tmp_path, plan())
    for cell in launched.runnable():
        path = Store(tmp_path).folder(cell.id) / "predictions.jsonl"
        if cell.backbone == "gpt2" and path.exists():
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:10]))
    store = ReadOnce(Store(tmp_path))
    (found,) = browsers(launched, store, gather(launched, store), 2)
    assert [found.equal[i][i] for i in range(len(found.series))] == [found.n] * 4 + [10] * 2
    assert found.better[3][4] + found.better[4][3] + found.equal[3][4] == 10


def test_pictures_are_embedded_once_and_are_the_datasets(made):
    store = ReadOnce(Store(made[0]))
    (found,) = browsers(made[1], store, gather(made[1], store), 8)
    assert set(found.images) == {image for shown in found.shown for image in shown.images}
    name, uri = next(iter(found.images.items()))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert np.array_equal(np.asarray(picture), DATA.open().image(name)), "without loss"
    assert len(uri) < 20_000


def test_data_that_the_cells_did_not_see_is_not_shown(made, monkeypatch):
    monkeypatch.setattr(type(DATA.open()), "fingerprint", lambda _: "0" * 12)
    store = ReadOnce(Store(made[0]))
    (found,) = browsers(made[1], store, gather(made[1], store), 2)
    assert found.images == {}
    assert {(shown.question, shown.missing) for shown in found.shown} == {
        ("", "the dataset 'small' that is here is not the one that the cells saw")
    }
    assert all(shown.references and shown.answers for shown in found.shown)


def test_missing_images_are_marked_in_place(made, monkeypatch):
    def gone(self, image):
        raise UserError(f"no file {image}.png")

    monkeypatch.setattr(type(DATA.open()), "image", gone)
    store = ReadOnce(Store(made[0]))
    (found,) = browsers(made[1], store, gather(made[1], store), 2)
    assert all(
        shown.question and shown.missing.startswith("the image is not here: no file")
        for shown in found.shown
    )


def test_of_many_methods_the_best_are_shown(made, monkeypatch):
    monkeypatch.setattr(examples, "METHODS", 2)
    store = ReadOnce(Store(made[0]))
    (found,) = browsers(made[1], store, gather(made[1], store), 2)
    assert found.series == (
        ("blip", "bitfit"),
        ("blip", METHODS[3]),
        ("gpt2", "p_adapter"),
        ("gpt2", METHODS[3]),
    )
    assert found.left_out == 2


def test_a_damaged_line_of_predictions_is_named(tmp_path):
    launched = fill(tmp_path, plan())
    path = Store(tmp_path).folder(launched.cells[0].id) / "predictions.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=rf"{path}: line \d+ is damaged .*--examples 0"):
        write_report([(launched, Store(tmp_path))], tmp_path / "out")
    assert write_report([(launched, Store(tmp_path))], tmp_path / "out", 0)


def test_predictions_cut_at_the_end_of_a_line_do_not_count(tmp_path):
    launched = fill(tmp_path, plan())
    folder = Store(tmp_path).folder(launched.cells[0].id)
    path, record = folder / "predictions.jsonl", json.loads((folder / "record.json").read_text())
    record["files"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "record.json").write_text(json.dumps(record))
    assert write_report([(launched, Store(tmp_path))], tmp_path / "out")
    for left in (3, 0):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:left]))
        with pytest.raises(UserError, match=f"{path} differs from what the run wrote"):
            write_report([(launched, Store(tmp_path))], tmp_path / "out")


def test_answers_of_different_seeds_are_marked(tmp_path):
    launched = fill(tmp_path, plan())
    first = launched.cells[0]
    (Store(tmp_path).folder(first.id) / "record.json").unlink()
    store = ReadOnce(Store(tmp_path))
    (found,) = browsers(launched, store, gather(launched, store), 2)
    assert found.series[0] == (first.backbone, first.row)
    assert found.seeds == (1, 0, 0, 0, 0, 0)
    assert found.answered_by() == "seeds 0, 1 (of each method the first that is done)"
    assert found.answered_by([1, 2]) == "seed 0"
    text = write_report([(launched, Store(tmp_path))], tmp_path / "out", 2)[0].read_text(
        encoding="utf-8"
    )
    assert text.count("seeds 0, 1 (of each method") == 1  # above the examples
    assert text.count("No best method on blip, vqa/small, without lora (missing).") == 1


def change_lines(root: Path, **values) -> Plan:
    launched = fill(root, plan())
    for path in root.glob("cells/*/predictions.jsonl"):
        path.write_text(
            "".join(
                json.dumps(json.loads(line) | values) + "\n"
                for line in path.read_text().splitlines()
            )
        )
    return launched


def test_examples_may_be_without_a_reference(tmp_path):
    launched = change_lines(tmp_path, references=[])
    assert "Reference:" not in write_report([(launched, Store(tmp_path))], tmp_path / "out", 2)[
        0
    ].read_text(encoding="utf-8")


@pytest.mark.parametrize("score", [None, "high"])
def test_a_score_that_is_not_a_number_is_refused(tmp_path, score):
    launched = change_lines(tmp_path, scores={"vqa_accuracy": score})
    with pytest.raises(UserError, match="line 1 is damaged"):
        write_report([(launched, Store(tmp_path))], tmp_path / "out", 2)
