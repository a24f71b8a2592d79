"""A picture of a page in headless Chromium (Debian: chromium, chromium-driver).

python -m tools.screenshot leaderboards/leaderboard.html docs/page.png --height 1780
python -m tools.screenshot leaderboards/leaderboard.html docs/page_dark.png --dark --height 1500 --scroll-to h-matrix
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1900)
    parser.add_argument("--scroll-to", default="", help="id of the heading at the top of the picture")
    given = parser.parse_args()
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    driver = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)
    try:
        if given.dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": given.width, "height": given.height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(given.page.resolve().as_uri())
        time.sleep(2)  # the plots draw themselves
        if given.scroll_to:
            driver.execute_script(f"document.getElementById({given.scroll_to!r}).scrollIntoView()")
            time.sleep(1)
        driver.save_screenshot(str(given.picture))
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
