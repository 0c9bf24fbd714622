// The page is whole without this script. It adds sorting, filters, highlighting, and reading charts with the arrow keys.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const source = document.querySelector("#data");
const data = source ? JSON.parse(source.textContent) : null;

// --- sorting: a button in each header; numbers by value, other text (such as "1/3 seeds") last ---
const number = (cell) => {
  const found = cell.textContent.replaceAll(",", "").match(/^[^\d-]{0,5}(-?\d+(\.\d+)?)(?![\d/])/);
  return found ? Number(found[1]) : NaN;
};

function sort(table, column, descending) {
  const rows = all("tbody tr", table);
  const numeric = rows.some((row) => !Number.isNaN(number(row.cells[column]))) && column > 0;
  const sign = descending ? -1 : 1;
  const compare = (a, b) => {
    const [left, right] = [a.cells[column], b.cells[column]];
    if (!numeric) return sign * left.textContent.localeCompare(right.textContent, "en");
    const [x, y] = [number(left), number(right)];
    return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : sign * (x - y);
  };
  table.tBodies[0].append(...rows.sort(compare));
}

for (const table of all("table.sortable")) {
  all("thead th", table).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const first = header.classList.contains("r") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = header.getAttribute("aria-sort") === first ? other : first;
      all("th[aria-sort]", table).forEach((each) => each.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", order);
      sort(table, column, order === "descending");
    });
  });
}

// --- highlighting a method in every chart: from the legend, the filter, or a point that is under the pointer ---
const pressed = new Set();
let chosen = "";

function highlight(passing = null) {
  const hot = new Set(passing === null ? pressed : [...pressed, passing]);
  if (chosen) hot.add(String(all("[data-legend] li").findIndex((item) => item.textContent.trim() === chosen)));
  for (const mark of all("[data-page-methods] [data-m]")) {
    const own = mark.dataset.m.split(" ").some((each) => hot.has(each)); // a label may be of several
    mark.classList.toggle("hot", own);
    mark.classList.toggle("faded", hot.size > 0 && !own);
  }
}

for (const item of all("[data-legend] li")) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.append(...item.childNodes);
  item.append(button);
  button.addEventListener("click", () => {
    const on = !pressed.delete(item.dataset.m);
    if (on) pressed.add(item.dataset.m);
    button.setAttribute("aria-pressed", String(on));
    highlight();
  });
}

// --- charts: arrow keys read point after point into the line below ---
for (const chart of all(".chart > svg")) {
  const own = chart.parentElement.matches("[data-page-methods]");
  const marks = all("path.m", chart).length ? all("path.m", chart) : all("path.line", chart);
  const read = document.createElement("output");
  read.setAttribute("aria-live", "polite");
  chart.after(read);
  chart.tabIndex = 0;
  chart.setAttribute("aria-description", "Arrow keys read the points.");
  let at = -1;
  const show = (mark) => {
    read.textContent = mark ? mark.querySelector("title").textContent : "";
    if (own) highlight(mark ? mark.dataset.m : null);
  };
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !marks.length) return;
    event.preventDefault();
    at = at < 0 && step < 0 ? marks.length - 1 : (at + step + marks.length) % marks.length;
    show(marks[at]);
  });
  chart.addEventListener("pointerover", (event) => marks.includes(event.target) && show(event.target));
  chart.addEventListener("pointerleave", () => show(null));
  chart.addEventListener("blur", () => show(null));
}

// --- the prediction browser: examples on which one method is better than another ---
const score = (card, series) => {
  const answer = all(".answers li", card).find((item) => item.dataset.by.split(" ").includes(series));
  return answer && answer.dataset.score !== "" ? Number(answer.dataset.score) : NaN;
};

function fits(card, a, b) {
  const scores = all(".answers li", card).filter((item) => item.dataset.score !== "").map((item) => Number(item.dataset.score));
  if (a && b) return score(card, a) > score(card, b);
  if (a) return score(card, a) > Math.min(...scores);
  return b ? Math.max(...scores) > score(card, b) : true;
}

function says(pair, a, b, shown) {
  if (!a || !b) return a || b ? `${shown} of the examples below` : "";
  const [better, worse, equal] = [pair.better[a][b], pair.better[b][a], pair.equal[a][b]];
  const both = (better + worse + equal).toLocaleString("en");
  return `Of all ${both} examples that both answered: better on ${better}, worse on ${worse}, equal on ${equal}. ${shown} of the better ones below.`;
}

function browse(browser, words) {
  const [a, b] = ["a", "b"].map((name) => browser.querySelector(`select[name=${name}]`).value);
  for (const card of all(".card", browser)) {
    card.hidden = !fits(card, a, b) || !matches(card, words);
    for (const item of all(".answers li", card)) {
      item.classList.toggle("chosen", [a, b].some((series) => series && item.dataset.by.split(" ").includes(series)));
    }
    all(".more", card).forEach((more) => (more.open = more.querySelector(".chosen") !== null));
  }
  const shown = all(".card:not([hidden])", browser).length;
  browser.querySelector(".duel output").textContent = says(data.pairs[browser.dataset.browser], a, b, shown);
}

// --- filters of the whole page ---
const form = document.querySelector("#filters");
const isOf = (data, place) => data === place || data.split(" + ").includes(place.split(" (joint: ")[0]);
const matches = (element, words) => words.every((word) => element.textContent.toLowerCase().includes(word));

function columns(place) {
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((header, column) => {
      const hide = Boolean(place && header.dataset.data && header.dataset.data !== place);
      for (const row of table.rows) row.cells[column].hidden = hide;
    });
  }
}

function filter() {
  const { words, method, backbone, data: place } = Object.fromEntries(new FormData(form));
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  for (const part of all("main [data-backbone], main [data-data]:not(th)")) {
    const { backbone: at, data: on } = part.dataset;
    part.hidden = Boolean((backbone && at && at !== backbone) || (place && on && !isOf(on, place)));
  }
  for (const row of all("tr[data-method]")) {
    row.hidden = Boolean(method && row.dataset.method !== method) || !matches(row, wanted);
  }
  columns(place);
  all(".browser").forEach((browser) => browse(browser, wanted));
  chosen = method;
  highlight();
  const active = words || method || backbone || place;
  const rows = all("#leaderboard > div:not([hidden]) tr[data-method]:not([hidden])").length;
  const cards = all(".browser:not([hidden]) .card:not([hidden])").length;
  form.querySelector("output").textContent = active ? `${rows} rows of the leaderboard, ${cards} examples` : "";
}

if (form) {
  form.hidden = false;
  all(".duel").forEach((each) => (each.hidden = false));
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  all(".browser select").forEach((select) => select.addEventListener("input", filter));
}

// --- the numbers, as a file ---
const download = document.querySelector("#download");
if (download) {
  download.hidden = false;
  download.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([source.textContent], { type: "application/json" }));
    link.download = "report.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
