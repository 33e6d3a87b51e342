"""The report's page in a browser: what is drawn after clicks, on a phone, by keyboard, and that nothing goes wrong in it."""

import shutil
from itertools import pairwise

import pytest
from report_runs import make_benchmark, make_run

from sb3_pgr.report import build_report

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("chromedriver") is None,
    reason="there is no Chromium here (Debian: apt-get install chromium chromium-driver)",
)
EVIL = "<script>alert(1)<"

# What a reader sees: contrast of every element with text of its own against the first background behind it.
CONTRASTS = """
function channel(value) { value /= 255; return value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4; }
function luminance([r, g, b]) { return .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b); }
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
}
return [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility() && !element.closest("svg") &&
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())).map((element) => {
  const both = [luminance(numbers(getComputedStyle(element).color)), luminance(behind(element))].sort((a, b) => b - a);
  return [(both[0] + .05) / (both[1] + .05), element.outerHTML.slice(0, 80)];
});
"""

STRUCTURE = """
const all = (what) => [...document.querySelectorAll(what)];
const named = (e) => e.labels?.length || e.textContent.trim() || e.ariaLabel || e.hasAttribute("aria-labelledby");
return {
  unnamed: all("input, button, section, nav, aside, video, figure .plot, .scroll, pre").filter((e) => !named(e)).length,
  images: all("main img, main svg:not([aria-hidden])").filter((e) => !e.closest(".plot") && !e.alt && !e.ariaLabel).length,
  headings: all("h1, h2, h3").map((e) => Number(e.tagName[1])),
  landmarks: ["header", "nav", "main", "aside"].map((name) => all(name).length),
  ids: all("[id]").filter((e) => !e.closest("svg")).map((e) => e.id),
  links: all("a[href^='#']").filter((e) => !document.querySelector(e.getAttribute("href"))).length,
};
"""
FOCUSED = """
const e = document.activeElement, s = getComputedStyle(e);
return [e.tagName, e.name || e.id || e.textContent, e.value || "", s.outlineStyle, s.outlineWidth];
"""


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Three algorithms on two tasks, a broken run, one that has not finished, and one that tells no times."""
    root = make_benchmark(tmp_path_factory.mktemp("page") / "out", ["a", "b"], ["sac", "td3", EVIL], range(3), n=4)
    (root / "b/td3/seed_1/sac/b_1/evaluations.npz").write_bytes(b"PK")
    for seed in range(3):
        (root / f"b/sac/seed_{seed}/sac/b_1/progress.csv").unlink()
    make_run(root / "a/sac/seed_3/sac/a_1", [500, 501], env="a", seed=3, wanted=10_000)
    return build_report([root], root.parent / "page.html").page.as_uri()


@pytest.fixture
def page(browser, address):
    """Opened afresh, on a desk; nothing may have gone wrong in it when the test is over."""
    browser.get_log("browser")
    look(browser, 1300, 900)
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def look(browser, width, height, scheme="light"):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def click(page, name, value=None):
    """A radio button or a checkbox."""
    boxes = page.find_elements(By.CSS_SELECTOR, f"input[name={name}]")
    (box,) = [box for box in boxes if value is None or box.get_attribute("value") == value]
    box.click()


def drawn(page, chart, kind="line"):
    """x and y of the traces of a kind, by algorithm (and seed)."""
    traces = page.execute_script(
        f"return document.getElementById('{chart}').data.map(t => ({{meta: t.meta, x: [...t.x], y: [...t.y]}}))"
    )
    found = {}
    for trace in traces:
        if trace["meta"]["kind"] == kind:
            key = (trace["meta"]["arm"], trace["meta"]["seed"]) if kind == "run" else trace["meta"].get("arm")
            found[key] = (trace["x"], trace["y"])
    return found


def test_draws_what_the_runs_hold(page):
    assert page.find_element(By.TAG_NAME, "h1").text == "Report: out"
    steps = [100, 200, 300, 400]
    # Numbers of the helper: 1000 x task + 100 x algorithm + 10 x seed + evaluation; the mean seed is 1.
    expected = {arm: (steps, [100 * j + 10 + k for k in range(4)]) for j, arm in enumerate(["sac", "td3", EVIL])}
    assert drawn(page, "curve-0") == expected
    assert drawn(page, "curve-1")["td3"] == (steps, [1110 + k for k in range(4)])  # of seeds 0 and 2
    assert set(drawn(page, "curve-0", "band")) == {"sac", "td3", EVIL}
    assert set(drawn(page, "profile")) == {"sac", "td3", EVIL}
    assert page.find_elements(By.CSS_SELECTOR, "#curve-0 .scatterlayer path.js-line")


def test_steps_and_wall_clock(page):
    click(page, "axis", "time")
    assert drawn(page, "curve-0")["sac"] == ([10, 20, 30, 40], [10, 11, 12, 13])  # 10 steps a second
    assert drawn(page, "curve-0")["td3"] == ([5, 10, 15, 20], [110, 111, 112, 113])  # 20
    assert page.execute_script("return document.getElementById('curve-0').layout.xaxis.title.text") == "seconds of training"
    assert "sac" not in drawn(page, "curve-1")
    assert (
        page.find_element(By.ID, "remark-1").text == "Not drawn, wall-clock time is not known, or their runs share none: sac."
    )
    click(page, "axis", "steps")
    assert drawn(page, "curve-0")["sac"][0] == [100, 200, 300, 400] and page.find_element(By.ID, "remark-1").text == ""


def test_filters(page):
    click(page, "arm", "td3")
    for chart in ("curve-0", "curve-1"):
        assert set(drawn(page, chart)) == set(drawn(page, chart, "band")) == {"sac", EVIL}
    assert drawn(page, "curve-1")["sac"][1] == [1010, 1011, 1012, 1013] and set(drawn(page, "profile")) == {"sac", EVIL}
    click(page, "task", "a")
    shown = [figure.is_displayed() for figure in page.find_elements(By.CSS_SELECTOR, "#curves figure")]
    assert shown == [False, True]
    assert page.find_element(By.ID, "shown").text == "1 of 2 tasks, 2 of 3 algorithms"
    rows = page.find_elements(By.CSS_SELECTOR, "#results tbody tr")
    assert [row.get_attribute("data-arm") for row in rows if row.is_displayed()] == [EVIL, "sac"]
    pairs = [row for row in page.find_elements(By.CSS_SELECTOR, ".improvement tbody tr") if row.is_displayed()]
    assert len(pairs) == 1
    page.find_element(By.CSS_SELECTOR, "[data-none=arms]").click()
    assert drawn(page, "curve-1") == {} and page.find_element(By.CSS_SELECTOR, "#curves .empty").is_displayed()
    page.find_element(By.CSS_SELECTOR, "[data-all=arms]").click()
    page.find_element(By.CSS_SELECTOR, "[data-all=tasks]").click()
    assert set(drawn(page, "curve-0")) == {"sac", "td3", EVIL}


def test_line_band_and_seeds(page):
    click(page, "band", "range")
    x, y = drawn(page, "curve-0", "band")["sac"]
    assert x == [100, 200, 300, 400, 400, 300, 200, 100] and y == [20, 21, 22, 23, 3, 2, 1, 0]
    click(page, "band", "none")
    click(page, "line", "mean")
    assert drawn(page, "curve-0", "band") == {} and drawn(page, "curve-0")["sac"][1] == [10, 11, 12, 13]
    assert drawn(page, "curve-0", "run") == {}
    click(page, "single")
    runs = drawn(page, "curve-0", "run")
    assert len(runs) == 10 and runs["sac", 2] == ([100, 200, 300, 400], [20, 21, 22, 23])
    assert runs["sac", 3] == ([100, 200], [500, 501])  # has not finished: it can be seen, and is in no line


def test_numbers_behind_a_chart(page):
    details = page.find_element(By.CSS_SELECTOR, "[data-curve='0']")
    details.find_element(By.TAG_NAME, "summary").click()
    WebDriverWait(page, 10).until(lambda _: details.find_elements(By.TAG_NAME, "tr"))  # the event of opening comes later
    rows = [[cell.text for cell in row.find_elements(By.XPATH, "./*")] for row in details.find_elements(By.TAG_NAME, "tr")]
    assert rows[0] == ["algorithm", "environment steps", "evaluation return", "band from", "band to"] and len(rows) == 13
    line = next(row for row in rows if row[:2] == ["sac", "200"])
    assert line[2] == "11" and float(line[3]) <= 11 <= float(line[4])
    click(page, "arm", "sac")
    assert len(details.find_elements(By.TAG_NAME, "tr")) == 9


def test_broken_runs_are_listed(page):
    text = page.find_element(By.ID, "incomplete").text
    assert "evaluations.npz is cut off or damaged" in text and "b, td3, seed 1" in text
    assert "not finished: its last trace is at step 200 of 10,000" in text
    assert "b, sac, 3 runs" in text and "progress.csv is missing" in text
    assert "2 of 19 runs are incomplete" in page.find_element(By.CSS_SELECTOR, ".top .notice").text


def test_normalised_values(browser, tmp_path):
    root = make_benchmark(tmp_path / "out", ["a"], ["sac"], range(2), behaviour=4.0, reference=("ours", 0.0, 40.0))
    look(browser, 1300, 900)
    browser.get(build_report([root], tmp_path / "page.html").page.as_uri())
    cell = browser.find_element(By.CSS_SELECTOR, "#results tr[data-arm] td")
    assert cell.text.startswith("9.5")
    click(browser, "values", "normalised")
    assert cell.text.startswith("23.8") and browser.find_element(By.CSS_SELECTOR, ".behaviour td").text == "10.0"
    assert drawn(browser, "curve-0")["sac"][1] == pytest.approx([12.5, 15, 17.5, 20, 22.5])
    assert drawn(browser, "curve-0", "behaviour")[None][1] == [10, 10]


@pytest.mark.parametrize("width", [360, 768])
def test_narrow_screens(page, address, width):
    look(page, width, 740)
    page.get(address)
    wide, seen = page.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert wide == seen <= width
    chart = page.find_element(By.ID, "curve-0")
    assert chart.rect["x"] >= 0 and chart.rect["x"] + chart.rect["width"] <= width
    filters = page.find_element(By.ID, "filters")
    assert filters.get_attribute("open") is None
    filters.find_element(By.TAG_NAME, "summary").click()
    click(page, "arm", "td3")
    assert set(drawn(page, "curve-0")) == {"sac", EVIL}


def test_keyboard(page):
    reached, outlines = [], []
    for _ in range(200):
        page.switch_to.active_element.send_keys(Keys.TAB)
        at = page.execute_script(FOCUSED)
        if at[0] == "BODY":
            break
        reached.append((at[0], at[1], at[2]))
        outlines.append(tuple(at[3:]))
    assert reached[0][1] == "Skip to the results" and set(outlines) == {("solid", "3px")}
    for arm in ("sac", "td3", EVIL):
        assert ("INPUT", "arm", arm) in reached
    for wanted in (
        ("INPUT", "task", "b"),
        ("INPUT", "axis", "steps"),
        ("INPUT", "band", "interval"),
        ("INPUT", "single", "on"),
    ):
        assert wanted in reached
    assert sum(tag == "SUMMARY" for tag, *_ in reached) >= 1 + 2 + 1 + 19  # filters, numbers, profile, runs
    page.find_element(By.CSS_SELECTOR, "input[name=axis][value=steps]").send_keys(Keys.ARROW_RIGHT)
    assert drawn(page, "curve-0")["sac"][0] == [10, 20, 30, 40]
    page.find_element(By.CSS_SELECTOR, "input[name=arm][value=sac]").send_keys(Keys.SPACE)
    assert "sac" not in drawn(page, "curve-0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, address, scheme):
    look(page, 1300, 900, scheme)
    page.get(address)
    for details in page.find_elements(By.TAG_NAME, "details"):
        page.execute_script("arguments[0].open = true", details)
    contrasts = page.execute_script(CONTRASTS)
    assert len(contrasts) > 200 and not [found for found in contrasts if found[0] < 4.5]
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_structure_that_readers_of_screens_need(page):
    found = page.execute_script(STRUCTURE)
    assert found["unnamed"] == found["images"] == found["links"] == 0 and found["landmarks"] == [1, 1, 1, 1], found
    levels = found["headings"]
    assert levels[0] == 1 and levels.count(1) == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert len(found["ids"]) == len(set(found["ids"])), found["ids"]
