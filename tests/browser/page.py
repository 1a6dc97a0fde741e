"""The pages in a real browser, and what tests ask of them."""

import importlib.util
import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_SECONDS = 60
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# No sandbox, as root cannot have one; and nothing that asks the network by itself.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def browser_programs() -> tuple[str, str]:
    """Chromium and its driver. Without them the test is skipped."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        missing = "Chromium" if browser is None else "chromedriver"
        pytest.skip(f"{missing} is not installed; on Debian: apt-get install chromium chromium-driver")
    return browser, driver


class Page:
    """A browser of its own with one of the server's pages in it."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900, scheme: str = "light"):
        browser, driver = browser_programs()
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.driver.set_page_load_timeout(PATIENCE_SECONDS)
        self.driver.set_script_timeout(PATIENCE_SECONDS)
        self.console: list[dict] = []
        self.requested: list[str] = []
        self.resize(width, height)
        self.prefer(scheme)

    def resize(self, width: int, height: int = 900) -> None:
        """Gives the page this size in CSS pixels; a window cannot be as narrow as a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Lets the system ask for light or dark."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, url: str) -> "Page":
        """Opens an address."""
        self.driver.get(url)
        return self

    def run(self, script: str, *arguments):
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def one(self, selector: str):
        """The first element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list:
        """Every element."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str = "body") -> str:
        """What can be seen in the first element."""
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def wait(self, what: str, condition):
        """Waits until the condition, which is asked again and again, holds."""
        def holds(_):
            return condition()

        message = f"{what} did not happen"
        try:
            return WebDriverWait(self.driver, PATIENCE_SECONDS, 0.05).until(holds, message)
        except Exception as error:
            error.msg = f"{message}; the page says:\n{self.text()}"
            raise

    def wait_for_text(self, text: str, selector: str = "body") -> None:
        """Waits until this can be read."""
        self.wait(f"{text!r} in {selector}", lambda: text in self.text(selector))

    def write(self, text: str) -> None:
        """Types a text instead of what is there."""
        field = self.one("#text")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)

    def paste(self, text: str) -> None:
        """Puts in a text that is too long, or too odd, to be typed."""
        script = (
            "const field = document.getElementById('text'); field.value = arguments[0];"
            "field.dispatchEvent(new Event('input', {bubbles: true}));"
        )
        self.run(script, text)

    def choose(self, view: str) -> None:
        """Who is to read: auto, or both."""
        self.run("document.querySelector(`input[value=${arguments[0]}]`).click()", view)

    def bars(self, card: int = 0) -> list[tuple[str, float]]:
        """Labels and scores of a card in their order; empty while an answer is awaited."""
        script = (
            "const readings = document.getElementById('readings');"
            "const card = readings.querySelectorAll('.reading')[arguments[0]];"
            "if (!card || readings.getAttribute('aria-busy') === 'true') return [];"
            "return [...card.querySelectorAll('.bar')].map((bar) => [bar.dataset.label, Number(bar.dataset.score)]);"
        )
        return [tuple(bar) for bar in self.run(script, card)]

    def wait_for_bars(self, count: int = 28, card: int = 0) -> list[tuple[str, float]]:
        """Waits until a card shows as many labels as a model has."""
        self.wait(f"{count} bars", lambda: len(self.bars(card)) == count)
        return self.bars(card)

    def is_wider_than_its_window(self) -> bool:
        """Whether one would have to scroll sideways."""
        return self.run("return document.documentElement.scrollWidth > document.documentElement.clientWidth")

    def violations(self) -> list[str]:
        """What axe-core finds in the page as it is now."""
        package = importlib.util.find_spec("axe_playwright_python").submodule_search_locations[0]
        self.run((Path(package) / "axe.min.js").read_text())
        found = self.driver.execute_async_script("axe.run(document).then(arguments[0], (e) => arguments[0](String(e)))")
        assert isinstance(found, dict), found
        assert len(found["passes"]) > 15, "axe looked at next to nothing"
        return [
            f"{rule['id']}: {node['html'][:160]}: {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]

    def read_logs(self) -> None:
        """Takes over what the browser has written down so far."""
        self.console += self.driver.get_log("browser")
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])

    def check_logs(self, url: str) -> None:
        """No error in the console but replies that are refusals, and no request to anywhere else."""
        self.read_logs()
        wrong = [entry for entry in self.console if entry["level"] == "SEVERE" and entry["source"] != "network"]
        assert not wrong, wrong
        # The browser's own pages, such as that of a new tab, ask by schemes of their own.
        asked = [request for request in self.requested if urlsplit(request).scheme in ("http", "https", "ws", "wss")]
        hosts = {urlsplit(request).netloc for request in asked}
        assert hosts <= {urlsplit(url).netloc}, hosts

    def close(self) -> None:
        """Ends the browser."""
        self.driver.quit()
