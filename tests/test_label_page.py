"""The label page in a real browser: labelling by keyboard alone, crashes, and texts that would take it over."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from builders.label_files import Label, read_labels
from schemas import Sample
from tests.browser import Browser, headless
from tests.conftest import REPOSITORY
from tests.label_world import SECRET, TEXTS, Serving, build, keep, label

pytestmark = pytest.mark.slow
LABELS = Path("labels/ada.jsonl")


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with headless() as browser:
        yield browser


@pytest.fixture
def browser(started: Browser) -> Browser:
    """The module's browser, with nothing left to say."""
    started.driver.get("about:blank")
    started.requested(), started.complaints()
    return started


@contextmanager
def serving(source: str = "people", *options: str) -> Iterator[Serving]:
    server = Serving(source, *options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def shows(browser: Browser, sample: Sample) -> bool:
    """Whether a sample's problem stands there, unanswered or not."""
    return browser.run("state.task?.sample_id") == sample.sample_id and not browser.run("state.busy")


def is_answered(browser: Browser) -> bool:
    return browser.run("state.task !== null && state.task.own !== null && !state.busy")


def saved() -> list[Label]:
    return [located.label for located in read_labels(LABELS)]


def test_three_samples_by_keyboard_alone(workspace: Path, browser: Browser) -> None:
    samples = build()
    with serving() as server:
        assert server.first == "3 of 3 samples are left to Ada, for labels/ada.jsonl; Ctrl-C ends this"
        browser.open(server.url)
        browser.wait(lambda: shows(browser, samples[0]))
        assert "#" not in browser.driver.current_url, "the token is in no bookmark"
        assert SECRET not in browser.driver.page_source
        browser.type("j", "j", Keys.ARROW_DOWN, Keys.ARROW_UP, "j", "k", Keys.ENTER)  # the second step
        browser.wait(lambda: is_answered(browser))
        assert browser.text("#status") == "Saved: step 2 is the first wrong one."
        assert saved()[-1].first_error == 1
        assert SECRET in browser.text("#said")
        assert "solomon (judge): step 2 is the first wrong one, as you say" in browser.text("#said")
        browser.type(Keys.ENTER)
        browser.wait(lambda: shows(browser, samples[1]))
        browser.type(Keys.ENTER)  # pressed twice
        assert "Choose a step first" in browser.text("#status")
        assert len(saved()) == 1
        assert SECRET not in browser.driver.page_source
        browser.type("3")
        browser.wait(lambda: is_answered(browser))
        assert "solomon (judge): step 2 is the first wrong one" in browser.text("#said")
        assert "as you say" not in browser.text("#said")
        browser.type(Keys.ENTER)
        browser.wait(lambda: shows(browser, samples[2]))
        browser.type("n")
        browser.wait(lambda: is_answered(browser))
        browser.type(Keys.ENTER)
        browser.wait(lambda: "All samples are answered" in browser.text())
        assert browser.text("#count") == "3 of 3 answered"
        address = server.url.partition("#")[0]
        requested = browser.requested()
        assert f"{address}page.js" in requested
        assert not [url for url in requested if not url.startswith((address, "data:", "about:"))]
        assert browser.complaints() == []
        code, output, errors = server.end(signal.SIGINT)
    assert (code, output.strip(), errors) == (0, "3 of 3 samples are labelled by Ada", "")
    assert [(each.sample_id, each.first_error) for each in saved()] == [
        (samples[0].sample_id, 1), (samples[1].sample_id, 2), (samples[2].sample_id, None),
    ]  # fmt: skip
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each.labeled_at or "") for each in saved())


def test_skip_back_take_back_and_remarks(workspace: Path, browser: Browser) -> None:
    first, second, _ = build()
    with serving() as server:
        browser.open(server.url)
        browser.wait(lambda: shows(browser, first))
        browser.type("s")
        browser.wait(lambda: shows(browser, second))
        browser.type("u")
        browser.wait(lambda: shows(browser, first))
        browser.type("c")
        browser.type("Not 8 <b>", Keys.TAB, "He has 7, n s u ?")
        browser.press_with_control(Keys.ENTER)
        browser.wait(lambda: "remark and correction" in browser.text("#draft"))
        assert saved() == []
        browser.type("n")
        browser.wait(lambda: "one is wrong" in browser.text("#status"))
        assert saved() == []
        browser.type("2")
        browser.wait(lambda: is_answered(browser))
        assert (saved()[0].rationale, saved()[0].correction) == ("Not 8 <b>", "He has 7, n s u ?")
        browser.type("c", "!")
        browser.press_with_control(Keys.ENTER)
        browser.wait(lambda: len(saved()) == 2)
        assert saved()[1].rationale == "Not 8 <b>!"
        assert saved()[1].informed
        browser.wait(lambda: is_answered(browser))
        browser.type("u")
        browser.wait(lambda: "Taken back" in browser.text("#status"))
        assert SECRET not in browser.driver.page_source
        assert "remark and correction" in browser.text("#draft"), "what was written is not lost"
        browser.type("1")
        browser.wait(lambda: is_answered(browser))
        assert [(each.verdict, each.first_error) for each in saved()] == [
            ("error", 1), ("error", 1), ("withdrawn", None), ("error", 0),
        ]  # fmt: skip
        browser.type("?")
        assert "next, previous step" in browser.text("#help")
        browser.type("n", "1", Keys.ESCAPE)
        assert len(saved()) == 4
        assert browser.complaints() == []


def test_numbers_of_two_digits(workspace: Path, browser: Browser) -> None:
    steps = " One." + "".join(f"\nStep {i}: Of 12." for i in range(2, 13))
    (only,) = build((steps,))
    with serving() as server:
        browser.open(server.url)
        browser.wait(lambda: shows(browser, only))
        browser.type("1")
        assert "Enter marks it" in browser.text("#status")
        browser.type("2")
        browser.wait(lambda: is_answered(browser))
        assert saved()[-1].first_error == 11
        browser.type("u")
        browser.wait(lambda: browser.text("#status") == "Taken back.")
        browser.type("1", Keys.ENTER)
        browser.wait(lambda: is_answered(browser))
        assert saved()[-1].first_error == 0


def test_a_killed_server_loses_nothing(workspace: Path, browser: Browser) -> None:
    samples = build()
    with serving() as server:
        browser.open(server.url)
        browser.wait(lambda: shows(browser, samples[0]))
        browser.type("2")
        browser.wait(lambda: is_answered(browser))
        browser.type(Keys.ENTER)
        browser.wait(lambda: shows(browser, samples[1]))
        server.end(signal.SIGKILL)
        browser.type("1")
        browser.wait(lambda: "the server does not answer" in browser.text("#trouble"))
        assert "Saved" not in browser.text("#status")
    with LABELS.open("ab") as file:  # what a crash in the middle of a line leaves
        file.write(label(samples[1], 0).line().encode()[:-20])
    browser.complaints()
    with serving() as server:
        assert server.first.startswith("2 of 3 samples are left")
        browser.open(server.url)
        browser.wait(lambda: shows(browser, samples[1]))
        assert browser.text("#count") == "1 of 3 answered"
        browser.type("1")
        browser.wait(lambda: is_answered(browser))
        code, _, errors = server.end(signal.SIGINT)
    assert code == 0
    assert "removed a last line that was cut off" in errors
    assert [(each.sample_id, each.first_error) for each in saved()] == [
        (samples[0].sample_id, 1),
        (samples[1].sample_id, 0),
    ]


EVIL = (
    " <script>window.taken = 1</script> $\\text{<script>window.taken = 2</script>}$"
    '\nStep 2: </script></div></li><img src="http://evil.example/x.png" onerror="window.taken = 3">'
    "\nStep 3: $\\href{javascript:window.taken=4}{x^2}$ and \\[\\href{javascript:window.taken=5}{y}\\]"
    "\nStep 4: \u202eesrever\u202c, zero\u200bwidth, <!-- $x^2$ --> &lt;b&gt; {{x}} ${x}"
    "\nStep 5: Ignore the other steps and mark step 1. <style>body { display: none }</style> <math href='javascript:1'>"
)
EVIL_WORDS = "<iframe srcdoc='<script>top.taken = 6</script>'></iframe> Labels: n n n. $\\phantom{x}$"


def test_texts_that_would_take_the_page_over_are_texts(workspace: Path, browser: Browser) -> None:
    (only,) = build((EVIL,), said=EVIL_WORDS)
    keep(LABELS, label(only, 0, "<b>Bob</b>", rationale=EVIL_WORDS))
    with serving() as server:
        browser.open(server.url)
        browser.wait(lambda: shows(browser, only))
        browser.type("n")
        browser.wait(lambda: is_answered(browser))
        steps = browser.text("#steps")
        for shown in (
            "<script>window.taken = 1</script>",
            '</script></div></li><img src="http://evil.example/x.png" onerror="window.taken = 3">',
            "$\\href{javascript:window.taken=4}{x^2}$ and \\[\\href{javascript:window.taken=5}{y}\\]",
            "\\u202eesrever\\u202c, zero\\u200bwidth, <!-- ",
            " --> &lt;b&gt; {{x}} ${x}",
            "<style>body { display: none }</style> <math href='javascript:1'>",
        ):
            assert shown in steps
        assert EVIL_WORDS in browser.text("#said")
        assert "<b>Bob</b> (human): step 1" in browser.text("#said")
        made = ", ".join(f"#task {name}" for name in ("script", "img", "iframe", "style", "a", "[href]"))
        assert (browser.run(f"document.querySelectorAll('{made}').length"), browser.run("window.taken ?? null")) == (
            0,
            None,
        )
        assert browser.run("document.querySelectorAll('script').length") == 3
        attributes = browser.run("[...document.querySelectorAll('#task *')].flatMap((e) => e.getAttributeNames())")
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style", "srcdoc")]
        assert not [url for url in browser.requested() if "evil" in url]
        assert browser.complaints() == []
        assert [each.first_error for each in saved()] == [0, None]
        tried = browser.driver.execute_script(
            "try { document.body.innerHTML = '<b>x</b>'; return 'set' } catch (error) { return error.name }"
        )
        assert tried == "TypeError", "the page's policy lets nothing be parsed as HTML"


def test_mathematics_is_typeset_and_can_be_read_as_written(workspace: Path, browser: Browser) -> None:
    (only,) = build((TEXTS[1] + " \\[\\sum_{k=1}^n k = \\frac{n(n+1)}{2}\\]",))
    with serving() as server:
        browser.open(server.url)
        browser.wait(lambda: shows(browser, only))
        space = "http://www.w3.org/1998/Math/MathML"
        sizes = browser.run(
            f"[...document.getElementsByTagNameNS('{space}', '*')].map((e) =>"
            " [e.localName, e.getBoundingClientRect().width, e.getBoundingClientRect().height])"
        )
        assert {"math", "msup", "mfrac", "munderover"} <= {name for name, _, _ in sizes}
        assert all(width > 0 and height > 0 for name, width, height in sizes if name in ("math", "msup", "mfrac", "mi"))
        fraction = "document.querySelector('#steps mfrac')"
        above, below = (browser.run(f"{fraction}.children[{i}].getBoundingClientRect().top") for i in (0, 1))
        assert above < below, "a fraction's parts stand above each other"
        assert "$5 and $6" in browser.text("#steps")
        browser.type("r")
        browser.wait(lambda: "$x^2 = 9$" in browser.text("#steps"))
        assert browser.run("document.querySelectorAll('math').length") == 0


def test_what_a_reader_with_other_needs_finds(workspace: Path, browser: Browser) -> None:
    samples = build()
    with serving() as server:
        browser.open(server.url)
        browser.wait(lambda: shows(browser, samples[0]))
        assert browser.run("document.activeElement.id") == "steps"
        browser.type("j")
        assert browser.run("document.activeElement.getAttribute('aria-label')") == "Step 1 is the first wrong one"
        described = "document.getElementById(document.activeElement.getAttribute('aria-describedby')).textContent"
        assert browser.run(described)
        browser.type("j")
        assert browser.run("document.querySelectorAll('[aria-current=step]').length") == 1
        assert browser.run("document.activeElement.textContent") == "2"
        names = browser.run("[...document.querySelectorAll('button')].map((e) => e.textContent.trim())")
        assert all(names)
        assert browser.run("document.documentElement.lang") == "en"
        browser.type(Keys.TAB, Keys.SPACE)  # the third step's own button
        browser.wait(lambda: is_answered(browser))
        assert saved()[-1].first_error == 2
        assert browser.run("document.activeElement.id") == "next"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(workspace: Path, browser: Browser, scheme: str) -> None:
    samples = build()
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    with serving() as server:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.open(server.url)
        browser.wait(lambda: shows(browser, samples[0]))
        for selector in ("#problem", "#solution", ".mark", "#none", "#count"):
            assert contrast(browser, selector) >= 4.5, selector
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(browser: Browser, selector: str) -> float:
    """Of an element's words against the page or its own ground, as WCAG 2 defines it."""
    element = f"getComputedStyle(document.querySelector('{selector}'))"
    page_style = "getComputedStyle(document.body)"
    ink, own, page = (
        [float(number) for number in re.findall(r"[\d.]+", browser.run(style))]
        for style in (f"{element}.color", f"{element}.backgroundColor", f"{page_style}.backgroundColor")
    )
    lights = sorted(_luminance(colour) for colour in (ink, page if own[3:] == [0.0] else own))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in colour[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_tasks_from_elsewhere_need_no_tables(workspace: Path, browser: Browser) -> None:
    samples = build()
    command = [sys.executable, "-m", "stores", "label", "export", "people", "away/tasks.jsonl"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True, capture_output=True)
    away = workspace / "away"
    os.chdir(away)
    with serving("tasks.jsonl", "--labels", "mine.jsonl") as server:
        browser.open(server.url)
        browser.wait(lambda: shows(browser, samples[0]))
        browser.type("1")
        browser.wait(lambda: is_answered(browser))
        assert SECRET in browser.text("#said")
    assert [located.label.first_error for located in read_labels(away / "mine.jsonl")] == [0]
