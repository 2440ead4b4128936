"""A real Chromium for tests: windows in which the page is used as people use it, and looked at."""

import json
import shutil
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Self

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from support.programs import require
from support.waiting import PATIENCE, eventually

# Seconds between two looks at a page: each is a request to the browser.
LOOK = 0.05
# The messages, as a reader sees them.
_ROWS = """
return [...document.querySelectorAll('#list .message')].map((row) => ({
  seq: row.dataset.seq === undefined ? null : Number(row.dataset.seq),
  from: row.querySelector('.name').textContent,
  text: row.querySelector('.text').textContent,
  mine: row.classList.contains('mine'),
  secret: row.querySelector('.badge')?.textContent ?? null,
}));
"""
# What a page has come to, for a test that waits for something else.
_SHOWN = """({
  url: location.href,
  loaded: document.readyState,
  visible: document.visibilityState,
  focus: document.activeElement?.id,
  text: document.body.innerText,
  fields: [...document.querySelectorAll('input, textarea')].map((each) => `${each.id}=${each.value}`),
  entering: document.getElementById('enter')?.disabled,
  kept: [{ ...localStorage }, { ...sessionStorage }],
})"""
# Give the focus to what a click on the middle of an element would reach; false if that is not the element.
_FOCUS = """
const field = document.querySelector(arguments[0]);
const { left, top, width, height } = field.getBoundingClientRect();
field.focus();
const reached = document.elementFromPoint(left + width / 2, top + height / 2);
return reached === field && document.activeElement === field;
"""


@contextmanager
def chromium(*, any_certificate: bool = False) -> Iterator[webdriver.Chrome]:
    """A Chromium without a screen, and its driver; ``any_certificate``: it trusts every server."""
    require("chromium", "chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.accept_insecure_certs = any_certificate
    for flag in (
        "--headless=new",
        # Tests run as root too, and in containers: these pages are our own.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-extensions",
        "--disable-background-networking",
        # Each new window would start a process ahead of its need.
        "--disable-features=SpareRendererForSitePerProcess",
        "--no-first-run",
        "--window-size=1100,700",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    session = driver.session_id
    try:
        yield driver
    finally:
        driver.quit()
        Window._empty.pop(session, None)


class Window:
    """A window with the page. Each method first brings it to the front.

    New windows and the driver's own scripts take more CPU than the page. So later tests use a window again. A
    method asks the browser directly wherever the driver adds nothing to a test.
    """

    # The one in front.
    shown = ""
    # Empty windows that earlier tests have left, per driver session.
    _empty: ClassVar[dict[str | None, list[str]]] = {}

    def __init__(
        self,
        driver: webdriver.Chrome,
        address: tuple[str, int],
        path: str = "/",
        *,
        new: bool = True,
        scheme: str = "http",
    ) -> None:
        """Open the page, in a ``new`` browser as far as the page can tell."""
        self.driver = driver
        self.url = f"{scheme}://{address[0]}:{address[1]}{path}"
        # Whether a later test may use the window.
        self._is_plain = True
        if empty := Window._empty.setdefault(driver.session_id, []):
            self.handle = empty.pop()
        else:
            driver.switch_to.new_window("window")
            Window.shown = self.handle = driver.current_window_handle
        self.cdp("Emulation.setFocusEmulationEnabled", enabled=True)
        # Runs before the page's scripts. A window that is used again has the session of its earlier page.
        forget = f"{'localStorage.clear(); ' if new else ''}sessionStorage.clear()"
        script = self.cdp("Page.addScriptToEvaluateOnNewDocument", source=forget)
        driver.get(self.url)
        self.cdp("Page.removeScriptToEvaluateOnNewDocument", **script)
        self.until("!document.getElementById('entrance').hidden", "the entrance")

    def front(self) -> webdriver.Chrome:
        if Window.shown != self.handle:
            self.driver.switch_to.window(self.handle)
            Window.shown = self.handle
        return self.driver

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a function's body in the page; an exception in it fails."""
        call = f"(function () {{ {script}\n }})(...{json.dumps(arguments)})"
        done = self.cdp("Runtime.evaluate", expression=call, returnByValue=True)
        assert "exceptionDetails" not in done, (script, done)
        return done["result"].get("value")

    def find(self, expression: str) -> Any:
        """Return what an expression is in the page."""
        return self.run(f"return {expression}")

    def until(self, expression: str, what: str, timeout: float = PATIENCE) -> None:
        """Wait until an expression is true in the page."""
        try:
            eventually(lambda: self.find(f"!!({expression})"), f"{what} ({expression})", timeout, pause=LOOK)
        except AssertionError as error:
            error.add_note(f"the page: {self.find(_SHOWN)}")
            raise

    def cdp(self, command: str, **arguments: Any) -> Any:
        return self.front().execute_cdp_cmd(command, arguments)

    def text(self, selector: str) -> str:
        return str(self.find(f"document.querySelector({json.dumps(selector)}).textContent"))

    def shows(self, selector: str, text: str) -> None:
        """Wait until a text is part of what an element says."""
        where = f"document.querySelector({json.dumps(selector)})?.textContent"
        self.until(f"{where}?.includes({json.dumps(text)})", f"{text!r} in {selector}")

    def click(self, selector: str) -> None:
        """Click where an element is seen: one that is hidden or covered fails."""
        self.front().find_element("css selector", selector).click()

    def type_in(self, selector: str, text: str) -> None:
        self.front().find_element("css selector", selector).send_keys(text)

    # The chat

    def enter(self, name: str, room: str = "") -> None:
        """Enter through the form, and wait until the chat is there."""
        for field, text in (("name", name), ("first-room", room)):
            if text:
                self.run(f"document.getElementById('{field}').value = ''")
                self.put(f"#{field}", text)
        self.press_enter()
        self.until_online()

    def until_online(self, timeout: float = PATIENCE) -> None:
        online = "document.getElementById('chat').classList.contains('online')"
        self.until(f"{online} && !document.getElementById('chat').hidden", "a connection", timeout)

    def put(self, selector: str, text: str) -> None:
        """Put a text into a field as if it was pasted; one that stays hidden, covered or inert fails."""
        eventually(lambda: self.run(_FOCUS, selector), f"a click to reach {selector}", pause=LOOK)
        self.cdp("Input.insertText", text=text)

    def press_enter(self) -> None:
        """Press and release Enter, in what has the focus."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self.cdp("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        self.cdp("Input.dispatchKeyEvent", type="keyUp", **key)

    def write(self, text: str) -> None:
        self.put("#text", text)

    def say(self, text: str) -> None:
        self.write(text)
        self.press_enter()

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.run(_ROWS)
        return found

    def texts(self) -> list[str]:
        return [str(row["text"]) for row in self.rows()]

    def hears(self, *texts: str) -> None:
        """Wait until all of these are shown, the last one last."""
        look = (
            "const shown = [...document.querySelectorAll('#list .message .text')].map((e) => e.textContent);"
            "const whole = arguments[0].every((text) => shown.includes(text));"
            "return whole && shown.at(-1) === arguments[0].at(-1);"
        )
        eventually(lambda: self.run(look, texts), f"the page to show {texts}", pause=LOOK)

    def notes(self) -> list[str]:
        found: list[str] = self.find(
            "[...document.querySelectorAll('#list .note')].map((e) => e.textContent)"
        )
        return found

    def notes_until(self, part: str) -> list[str]:
        """Wait until a line that is no message has this part; returns all such lines."""
        eventually(lambda: any(part in note for note in self.notes()), f"a line with {part!r}", pause=LOOK)
        return self.notes()

    def settings(self, *, width: int, height: int, dark: bool = False, language: str = "en-US") -> None:
        """Look at the page as with another screen, and in another language after the next load."""
        self._is_plain = False
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        agent = self.find("navigator.userAgent")
        self.cdp("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)

    def close(self) -> None:
        """End the page, and leave the window to a later one unless its settings are changed."""
        if self._is_plain:
            # When a script leaves the page, the window keeps its process.
            self.run("location.replace('about:blank')")
            self.until("location.href === 'about:blank'", "an empty window")
            Window._empty[self.driver.session_id].append(self.handle)
        else:
            self.front().close()
            Window.shown = ""


class Desk:
    """The windows of a test. At its end they are closed, and the browser must have nothing to complain of."""

    def __init__(self, driver: webdriver.Chrome, address: tuple[str, int], scheme: str = "http") -> None:
        self.driver = driver
        self.address = address
        self.scheme = scheme
        self.windows: list[Window] = []
        self._first = driver.current_window_handle

    def window(self, name: str = "", room: str = "", path: str = "/", *, new: bool = True) -> Window:
        """Open a window, and enter if there is a name."""
        window = Window(self.driver, self.address, path, new=new, scheme=self.scheme)
        self.windows.append(window)
        if name:
            window.enter(name, room)
        return window

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        found = []
        for window in self.windows:
            found += complaints(window.front())
            window.close()
        self.driver.switch_to.window(self._first)
        Window.shown = self._first
        assert error is not None or found == []


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the browser has complained of since the last look: errors of scripts, forbidden code."""
    return [
        entry["message"]
        for entry in driver.get_log("browser")  # type: ignore[no-untyped-call]
        # A server that is away is part of some tests.
        if "WebSocket" not in entry["message"] and "ERR_CONNECTION_REFUSED" not in entry["message"]
    ]


def room_path(room: str) -> str:
    return f"/#{urllib.parse.quote(room)}"
