"""What is typed is read at once, by one model or by two."""

from conftest import TEXT
from real_server import ask


def test_bars_appear_while_one_types(page, server):
    page.wait_for_text("Nothing to read yet")
    page.write(TEXT)
    bars = page.wait_for_bars(28)
    _, answer = ask(f"{server.url}/analyze", {"text": TEXT})
    assert bars == list(answer["all_scores"].items())
    assert [score for _, score in bars] == sorted((score for _, score in bars), reverse=True)
    significant = page.run("return [...document.querySelectorAll('.bar.significant')].map((bar) => bar.dataset.label)")
    assert significant == [found["label"] for found in answer["significant_emotions"]]
    widths = page.run("return [...document.querySelectorAll('.bar .fill')].map((fill) => fill.offsetWidth)")
    assert widths == sorted(widths, reverse=True) or widths[:3] == sorted(widths[:3], reverse=True)
    assert widths[0] > 3 * widths[2] > 0, "the longest bar is that of the highest score"
    words = page.text("#readings")
    for expected in (
        "Sadness",
        "75 %",
        "On the whole negative",
        "Conflicted",
        "Positive and negative feelings are both among the strongest",
        "grief and sadness, by the model's own rule",
        "goemotions, the heavy model in int8: the first choice where it may run",
        "16 tokens",
        " ms",
    ):
        assert expected in words, f"{expected!r} is not in {words}"
    assert "Sadness, 75 %. On the whole negative." in page.run("return document.getElementById('said').textContent")


def test_a_text_that_was_read_before_comes_from_the_cache(page):
    text = "How lovely, a letter that I had waited for since the spring!"
    page.write(text)
    page.wait_for_bars(28)
    assert "computed now" in page.text("#readings")
    page.write("Something else altogether")
    page.wait("another answer", lambda: "letter" not in page.text("#curl") and page.bars())
    page.write(text)
    page.wait_for_text("from the cache", "#readings")


def test_an_answer_that_comes_late_is_dropped(page):
    hold = (
        "const send = window.fetch; let first = true; window.held = {};"
        "window.fetch = (path, options) => {"
        "  if (!String(path).includes('analyze') || !first) return send(path, options);"
        "  first = false; held.signal = options.signal;"
        "  const {signal, ...rest} = options;"  # The late answer comes although it was given up.
        "  return send(path, rest).then((reply) => new Promise((go) => { held.release = () => go(reply); }));"
        "};"
    )
    page.run(hold)
    page.write("I am furious about this!")
    page.wait("the first request", lambda: page.run("return Boolean(held.release)"))
    page.write("Thank you so very much!")
    page.wait_for_text("Gratitude", "#readings")
    assert page.run("return held.signal.aborted"), "the first request was not given up"
    released = "const done = arguments[0]; held.release(); setTimeout(done, 50);"
    page.driver.execute_async_script(released)
    assert "Gratitude" in page.text("#readings") and "Anger" not in page.text(".headline")


def test_typing_asks_once_it_pauses(page):
    page.run("window.asked = 0; const send = fetch; window.fetch = (path, options) => {"
             " if (path === 'analyze') asked += 1; return send(path, options); };")
    field = "const field = document.getElementById('text');"
    each = "for (const letter of arguments[0]) { field.value += letter; field.dispatchEvent(new Event('input')); }"
    page.run(field + each, TEXT)
    page.wait_for_bars(28)
    assert page.run("return asked") == 1


def test_heavy_stands_beside_light_or_above_it(page):
    page.write(TEXT)
    page.choose("both")
    page.wait_for_bars(28, 0)
    page.wait_for_bars(7, 1)
    assert page.text(".agreement") == "Both read sadness as the basic emotion."
    where = "return [...document.querySelectorAll('.reading')].map((card) => card.getBoundingClientRect().toJSON())"
    heavy, light = page.run(where)
    assert heavy["top"] == light["top"] and heavy["right"] < light["left"]
    page.resize(600)
    heavy, light = page.run(where)
    assert heavy["bottom"] < light["top"] and heavy["left"] == light["left"]
    assert not page.is_wider_than_its_window()


def test_it_says_when_the_light_model_answers_for_the_heavy_one(start, open_page):
    server = start(ADMIN_KEY="two")
    assert ask(f"{server.url}/admin/models/heavy/unload", key="two", method="POST")[0] == 200
    page = open_page(f"{server.url}/")
    page.write(TEXT)
    page.wait_for_bars(7)
    assert "The light model answered instead of the heavy one" in page.text("#readings")
    assert "It was unloaded by hand." in page.text("#readings")
    page.choose("both")
    page.wait_for_bars(7, 0)
    page.wait_for_bars(7, 1)
    assert page.text(".agreement") == "Both columns are of the light model: the heavy one was replaced."
    assert "It was unloaded by hand." in page.run("return document.querySelector('.reading').innerText")


def test_a_long_text_is_said_to_be_cut(page):
    page.paste("I am so happy that you came. " * 200)
    page.wait_for_bars(28)
    assert "The text is longer than the model reads" in page.text("#readings")


def test_examples_are_read_and_an_empty_field_says_what_to_do(page):
    for button in page.all("#examples button"):
        button.click()
        page.wait("the example is read", lambda: page.bars())
        assert page.one("#text").get_attribute("value") in page.text("#curl").replace("'\\''", "'")
    page.write("\ue003")  # Backspace
    page.wait_for_text("Write or paste a text above, or take one of the examples.")
    assert page.bars() == []
    page.paste("   \n ")
    assert "Nothing to read yet" in page.text("#readings")
