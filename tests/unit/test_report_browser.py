"""The report page in headless Chromium: its script, on a phone, in dark mode, by keyboard."""

import pytest

from tests.chromium import NAMES, Chromium, executable
from tests.report_samples import fill, plan
from vlpeft.benchmark.cells.records import Store
from vlpeft.results.report.page import write_report

pytestmark = pytest.mark.skipif(
    executable() is None, reason=f"no browser here: none of {', '.join(NAMES)}"
)

# The contrast of each visible text with the colour behind it (WCAG 2.2, 1.4.3). The minimum is 4.5,
# or 3 for large text.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return parse("white");
  };
  const skipped = ["SCRIPT", "TITLE", "DESC", "OPTION", "title", "desc"];
  const isText = (node) => node.nodeType === 3 && node.textContent.trim();
  const low = new Set(); let seen = 0;
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some(isText);
    if (!own || !element.checkVisibility() || skipped.includes(element.tagName)) continue;
    const style = getComputedStyle(element), svg = element instanceof SVGElement;
    const [front, back] = [light(parse(svg ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    seen += 1;
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    const name = `${element.tagName}.${element.getAttribute("class")}`;
    if (ratio < least) low.add(`${name} ${ratio.toFixed(2)}`);
  }
  return { seen, low: [...low] };
})()"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (made,) = write_report([(fill(root, plan()), Store(root))], tmp_path_factory.mktemp("out"), 8)
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def table(browser, column: int) -> list[str]:
    """Return a column of the first leaderboard as shown."""
    return browser.run(
        "[...document.querySelectorAll('#leaderboard tbody')[0].rows]"
        f".map((row) => row.cells[{column}].textContent.trim())"
    )


def test_only_the_file_is_read_without_errors(browser, path):
    browser.requests.clear()
    browser.errors.clear()
    browser.open(path)
    assert [request for request in browser.requests if not request.startswith("data:")] == [
        path.resolve().as_uri()
    ]
    assert browser.errors == []


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_every_text_is_readable_and_fits_the_screen(browser, path, width, dark):
    browser.open(path, width=width, dark=dark)
    browser.run("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    found = browser.run(CONTRAST)
    assert found["seen"] > 300
    assert found["low"] == []
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_dark_is_dark(browser, path):
    colours = []
    for dark in (False, True):
        browser.open(path, dark=dark)
        colours.append(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(252, 252, 251)", "rgb(19, 21, 26)"]


def test_a_column_is_sorted_by_the_keyboard(browser, path):
    browser.open(path)
    assert [text.split()[0] for text in table(browser, 0)] == ["lora", "p_adapter", "bitfit", "odd"]
    browser.run("document.querySelectorAll('#leaderboard thead th button')[1].focus()")
    header = "document.querySelectorAll('#leaderboard thead th')[1].getAttribute('aria-sort')"
    browser.press("Enter")
    assert browser.run(header) == "descending"
    assert [text.split()[0] for text in table(browser, 1)] == ["80.5", "70.5", "60.5", "50.5"]
    browser.press("Enter")
    assert browser.run(header) == "ascending"
    assert [text.split()[0] for text in table(browser, 1)] == ["50.5", "60.5", "70.5", "80.5"]


def test_missing_numbers_are_sorted_last(browser, path):
    browser.open(path)
    for _ in range(2):
        browser.run(
            "document.querySelectorAll('#leaderboard table')[1]"
            ".querySelectorAll('thead button')[1].click()"
        )
        last = browser.run(
            "[...document.querySelectorAll('#leaderboard tbody')[1].rows]"
            ".map((row) => row.cells[1].textContent.trim())"
        )
        assert [text[:1] for text in last[:2]] in (["8", "6"], ["6", "8"])


def test_the_number_of_seeds_is_not_a_score(browser, path):
    browser.open(path)
    cell = (
        "[...document.querySelectorAll('#leaderboard tbody')[0].rows].at(-1).cells[1].textContent"
    )
    browser.run(f"{cell} = '1/2 seeds'")
    browser.run("document.querySelectorAll('#leaderboard thead button')[1].click()")
    assert browser.run(cell) == "1/2 seeds"
    browser.run("document.querySelectorAll('#leaderboard thead button')[1].click()")
    assert browser.run(cell) == "1/2 seeds"


def test_focus_can_be_seen(browser, path):
    browser.open(path)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0


def choose(browser, **values: str) -> None:
    for name, value in values.items():
        browser.run(f"document.querySelector('#filters [name={name}]').value = {value!r}")
    browser.run(
        "document.querySelector('#filters').dispatchEvent(new Event('input', { bubbles: true }))"
    )


def visible(browser, selector: str) -> int:
    return browser.run(
        f"[...document.querySelectorAll('{selector}')]"
        ".filter((each) => each.checkVisibility()).length"
    )


def test_filters_act_on_tables_charts_and_predictions(browser, path):
    browser.open(path)
    rows = "#leaderboard tr[data-method]"
    every = visible(browser, "#pareto figure")
    choose(browser, backbone="blip")
    assert (visible(browser, rows), visible(browser, "#pareto figure")) == (4, every // 2)
    choose(browser, backbone="", method="p_adapter")
    assert visible(browser, rows) == 2
    assert browser.run("document.querySelectorAll('#pareto path.m.faded').length") > 0
    assert browser.run(
        "[...document.querySelectorAll('#pareto path.m.hot')]"
        ".every((mark) => mark.dataset.m === '1')"
    )
    choose(browser, method="", words="nothing has these words")
    assert (
        browser.run("document.querySelector('#filters output').textContent")
        == "0 rows of the leaderboard, 0 examples"
    )
    browser.run("document.querySelector('#filters').reset()")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert visible(browser, rows) == 8


def test_examples_on_which_one_method_is_better(browser, path):
    browser.open(path)
    pick = "document.querySelector('.duel select[name={}]')"
    browser.run(f"{pick.format('a')}.value = '3'; {pick.format('b')}.value = '0'")
    browser.run(f"{pick.format('b')}.dispatchEvent(new Event('input', {{ bubbles: true }}))")
    shown = visible(browser, ".card")
    assert 0 < shown <= 8
    said = browser.run("document.querySelector('.duel output').textContent")
    assert said.startswith("Of all ")
    assert "worse on 0" in said
    assert said.endswith(f"{shown} of the better ones below.")
    assert visible(browser, ".card .answers li.chosen") >= 2 * shown
    browser.run(f"{pick.format('a')}.value = '0'; {pick.format('b')}.value = '3'")
    browser.run(f"{pick.format('b')}.dispatchEvent(new Event('input', {{ bubbles: true }}))")
    assert visible(browser, ".card") == 0


def test_pictures_are_drawn(browser, path):
    browser.open(path)
    sizes = browser.run(
        "[...document.querySelectorAll('.picture')]"
        ".map((each) => each.getBoundingClientRect().width)"
    )
    assert len(sizes) == 8
    assert min(sizes) > 60


def test_charts_are_read_by_arrow_keys(browser, path):
    browser.open(path)
    browser.run("document.querySelector('#pareto .chart > svg').focus()")
    browser.press("ArrowRight")
    read = "document.querySelector('#pareto .chart output').textContent"
    assert browser.run(read) == "lora: 50.5 ± 0.7 at 1,000 trainable parameters"
    browser.press("ArrowRight")
    assert browser.run(read).startswith("p_adapter: 60.5")


def test_a_shared_label_is_highlighted_with_each_of_its_methods(browser, path):
    browser.open(path)
    label = "document.querySelector('#pareto .label')"
    browser.run(f"{label}.dataset.m = '1 2'")
    for method, lit in (("p_adapter", True), ("bitfit", True), ("lora", False)):
        choose(browser, method=method)
        assert browser.run(f"{label}.classList.contains('hot')") is lit
        assert browser.run(f"{label}.classList.contains('faded')") is not lit


def test_links_that_run_off_a_phone_fade_until_the_last_is_reached(browser, path):
    browser.open(path, width=360)
    assert browser.run("document.querySelector('nav').scrollWidth > innerWidth")
    assert "linear-gradient" in browser.run(
        "getComputedStyle(document.querySelector('nav'), '::after').backgroundImage"
    )
    browser.run("document.querySelector('nav').scrollTo(9999, 0)")
    assert browser.run(
        "document.querySelector('nav li:last-child').getBoundingClientRect().right"
        " <= innerWidth - 48"
    )
    browser.open(path)
    assert browser.run("document.querySelector('nav').scrollWidth <= innerWidth")


def test_the_page_is_whole_without_its_script(browser, path):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    browser.load(path)
    browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert visible(browser, "#filters") == 0
    assert visible(browser, "#leaderboard tr[data-method]") == 8
    assert visible(browser, ".card") == 8
