"""The page in a real browser: it draws, sorts, filters, obeys the keyboard, and asks for nothing."""

from __future__ import annotations

import json
import re
import shutil
import time

import pytest
from leaderboard.make_store import STORE
from stores import make_plan, predictions, store

from fsar_bench.leaderboard.files import read_boards
from fsar_bench.leaderboard.page import page_data, write_page
from fsar_bench.leaderboard.published import read_published

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,1000",
)  # fmt: skip
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="chromium and chromedriver (Debian: chromium, chromium-driver) are not on this machine",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "leaderboard.html", read_boards(STORE), read_published(STORE))


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service(DRIVER), options=options)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, path):
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    choose(browser, "board", "Toy (synthetic), 2-way 1-shot")
    return browser


def choose(page, name: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("id", name)).select_by_visible_text(text)


def column(page, title: str) -> list[str]:
    heads = [h.text.rstrip(" ▲▼") for h in page.find_elements("css selector", "#table thead th")]
    return [c.text for c in page.find_elements("css selector", f"#table tbody td:nth-child({heads.index(title) + 1})")]


def press(page, title: str) -> None:
    next(b for b in page.find_elements("css selector", "#table th button") if b.text.rstrip(" ▲▼") == title).click()


@needs_browser
def test_sorts_both_ways_and_says_so(page):
    ranks = column(page, "rank")
    assert ranks[0].startswith("1–")
    by_accuracy = [float(v) for v in column(page, "accuracy %")]
    assert by_accuracy == sorted(by_accuracy, reverse=True)  # rows of overlapping intervals stay in this order
    press(page, "accuracy %")
    down = [float(v) for v in column(page, "accuracy %")]
    assert down == sorted(down, reverse=True)
    head = page.find_element("css selector", "#table th[aria-sort]")
    assert head.get_attribute("aria-sort") == "descending"
    press(page, "accuracy %")
    assert [float(v) for v in column(page, "accuracy %")] == down[::-1]
    press(page, "method")
    assert column(page, "method") == sorted(column(page, "method"), key=str.lower)
    press(page, "train s")
    assert column(page, "train s")[-1] == "–"  # unknown values come last
    assert column(page, "train s")[0] == "30.0"


@needs_browser
def test_filters_reach_table_and_plots(page):
    page.find_element("id", "filter").send_keys("close")
    assert column(page, "method") == ["Close_run"]
    assert page.execute_script("return document.getElementById('intervals').data[0].x.length") == 1
    assert "1 of 8 rows" in page.find_element("id", "count").text
    page.find_element("id", "filter").clear()
    page.find_element("id", "filter").send_keys("zzz")
    assert column(page, "method") == []
    page.find_element("id", "filter").clear()
    page.find_element("id", "hide-controls").click()
    choose(page, "names", "not used")
    assert set(column(page, "method")) == {
        "Close_run",
        "On a GPU",
        "Trained",
        "Strong & sound",
        "Elsewhere (submitted)",
        "On gaps",
    }


@needs_browser
def test_keyboard_alone_sorts(page):
    from selenium.webdriver.common.keys import Keys

    button = page.find_elements("css selector", "#table th button")[3]
    page.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert page.find_element("css selector", "#table th[aria-sort]").text.startswith("accuracy")
    assert page.execute_script("return document.activeElement.textContent") == "accuracy %"  # the focus stays


@needs_browser
def test_every_board_draws_without_errors_and_without_a_network(page):
    for name in ("Hmdb51, 5-way 1-shot", "Toy (synthetic), 2-way 2-shot", "Toy (synthetic), 2-way 1-shot"):
        choose(page, "board", name)
        for plot in ("intervals", "pareto", "matrix", "classes", "confusion"):
            assert page.find_elements("css selector", f"#{plot} svg.main-svg"), (name, plot)
    for number in range(6):
        choose(page, "cost", page.find_elements("css selector", "#cost option")[number].text)
    choose(page, "method", "Trained")
    assert page.get_log("browser") == []
    asked = {
        json.loads(entry["message"])["message"]["params"]["request"]["url"].split(":")[0]
        for entry in page.get_log("performance")
        if json.loads(entry["message"])["message"]["method"] == "Network.requestWillBeSent"
    }
    assert asked <= {"file", "data", "blob"}


@needs_browser
def test_published_figures_stand_apart(page):
    assert not page.find_element("id", "published").is_displayed()
    choose(page, "board", "Hmdb51, 5-way 1-shot")
    assert page.find_element("id", "published").is_displayed()
    assert not page.find_element("id", "synthetic").is_displayed()
    assert column(page, "paper %") == ["83.4"]
    assert len(page.find_elements("css selector", "#published-table tbody tr")) == 12


@needs_browser
def test_dark_mode_and_a_phone(page):
    from selenium.webdriver.support.ui import WebDriverWait

    def background() -> str:
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    light = background()
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert background() != light
    drawn = "return document.getElementById('intervals').layout.paper_bgcolor"
    WebDriverWait(page, 10).until(lambda page: page.execute_script(drawn) == "#15181c")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    page.refresh()
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_browser
def test_names_are_text_not_markup(browser, tmp_path, monkeypatch):
    """The page is safe by itself, also if plans did not refuse such class names."""
    monkeypatch.setattr("fsar_bench.plan._checked_names", tuple)
    plan = make_plan()
    hostile = type(plan)(
        **{
            **vars(plan),
            "names": (
                "</script><script>window.hit = 1</script>",
                "<img src=x onerror='window.hit = 1'>",
                *plan.names[2:],
            ),
        }
    )
    store(tmp_path, "a", predictions(plan, 0.8, 0), hostile)
    store(tmp_path, "b", predictions(plan, 0.7, 1), hostile, title="@@SCRIPT@@ $&")
    browser.get(write_page(tmp_path / "x.html", read_boards(tmp_path), []).as_uri())
    deadline = time.monotonic() + 20  # on a busy machine, plotly draws a moment later
    while not browser.find_elements("css selector", "#classes svg.main-svg"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert browser.execute_script("return window.hit") is None
    assert "@@SCRIPT@@ $&" in column(browser, "method")
    ticks = browser.execute_script("return document.getElementById('confusion').layout.yaxis.ticktext")
    assert not [tick for tick in ticks if re.search("<(img|script)", tick)]


def test_data_hold_what_the_page_shows():
    data = page_data(read_boards(STORE), read_published(STORE))
    (toy,) = [board for board in data["boards"] if board["title"] == "Toy (synthetic), 2-way 1-shot"]
    for row in toy["rows"]:
        asked = sum(map(sum, row["confusion"]))
        assert asked == 80 * row["seeds"]
        right = sum(row["confusion"][c][c] for c in range(6))
        assert 100 * right / asked == pytest.approx(row["accuracy"], abs=1e-3)
        for number, line in enumerate(row["confusion"]):
            if sum(line):
                assert row["classwise"][number] == pytest.approx(100 * line[number] / sum(line), abs=0.01)
