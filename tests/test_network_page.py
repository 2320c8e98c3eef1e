"""The page that lesson 4 writes, in a real browser, without a network.

PYTHONPATH=. python tests/test_network_page.py mnist_model.pth images/my_network.png
draws the README's picture.
"""

import base64
import contextlib
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import dl_utils
from backstage.data.synthetic_digits import STYLES, _read_style, make_digits
from backstage.page.writer import write_network_page
from backstage.terminal import UserError
from conftest import load_script

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install playwright"
)

DIGITS = 100  # to draw
SYSTEM_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


# ------------------------------------------------------------------------------
# Networks, pages, and hands
# ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser():
    with playwright.sync_playwright() as session:
        own = session.chromium.executable_path
        found = [
            own if Path(own).exists() else None,
            *map(shutil.which, SYSTEM_BROWSERS),
        ]
        if not any(found):
            pytest.skip("no Chromium: playwright install chromium")
        browser = session.chromium.launch(
            executable_path=next(filter(None, found)),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lesson():
    return load_script("04_load_model.py")


@pytest.fixture(scope="session")
def digits():
    """200 test digits: images as a network gets them, and labels."""
    images, labels = make_digits(200, seed=1)
    return dl_utils.normalize(images), labels


@pytest.fixture
def write(lesson, digits, tmp_path):
    """Write the page of an untrained network; return its path and the network."""

    def write(hidden_size=128, name="page.html", dataset="synthetic", model=None):
        torch.manual_seed(0)
        model = (model or lesson.SimpleNN(hidden_size)).eval()
        write_network_page(tmp_path / name, model, *digits, dataset)
        return tmp_path / name, model

    return write


@pytest.fixture
def visit(browser):
    """Open a page from its file, offline; at the end, nothing must have gone wrong."""
    with contextlib.ExitStack() as visits:

        def visit(path, width=1200, **options):
            context = browser.new_context(
                viewport={"width": width, "height": 800}, **options
            )
            visits.callback(context.close)
            context.set_offline(True)
            page = context.new_page()
            said, asked = [], []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("dialog", lambda dialog: said.append(dialog.message))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(path.as_uri())
            visits.callback(lambda: check(path, said, asked))
            return page

        yield visit


def check(path, said, asked):
    assert said == []
    assert asked == [path.as_uri()]


def strokes_of(style):
    """Return the strokes of a style, lists of (x, y) around (0, 0) up to 1 away."""
    for stroke in style.split("/"):
        points, weights = _read_style(stroke)
        begins, ends = (points.T @ weights).T.chunk(2)  # of 64 pieces
        yield torch.cat([begins[::6], ends[-1:]])


def draw(page, strokes, size=0.37, x=0.5, y=0.5, slant=0.0):
    """Draw strokes with the mouse; sizes and places are shares of the sheet."""
    sheet = page.locator("#draw").bounding_box()
    for stroke in strokes:
        across = x + size * (stroke[:, 0] - slant * stroke[:, 1])
        down = y + size * stroke[:, 1]
        points = [
            (sheet["x"] + sheet["width"] * a, sheet["y"] + sheet["height"] * d)
            for a, d in zip(across.tolist(), down.tolist(), strict=True)
        ]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def styles_of(digit):
    return [strokes for label, _, strokes in STYLES if label == digit]


def draw_digit(page, digit):
    draw(page, strokes_of(styles_of(digit)[0]))


def table(page):
    """Return the sum that the page shows: names and numbers, the total last."""
    cells = page.locator("#sum tr").evaluate_all(
        "rows => rows.map(row => [...row.children].map(cell => cell.textContent))"
    )
    return {name: float(number.replace("\u2212", "-")) for name, number in cells}


def logits_of(model, image):
    with torch.inference_mode():
        return model(image[None])[0]


# ------------------------------------------------------------------------------
# It reads what is drawn
# ------------------------------------------------------------------------------


@pytest.mark.real_mnist
def test_it_reads_drawn_digits_and_as_lesson_4_reads_their_pictures(
    visit, lesson, trained_model_path, real_mnist_dir, tmp_path, digits
):
    model = lesson.load_model(trained_model_path, 128, "cpu")
    write_network_page(tmp_path / "page.html", model, *digits, "synthetic")
    page = visit(tmp_path / "page.html")
    page.evaluate("""() => {
        const work = update;
        window.times = [];
        window.update = () => {
            const begin = performance.now();
            work();
            times.push(performance.now() - begin);
        };
    }""")
    rng = torch.Generator().manual_seed(0)
    read, same = [], []
    for i in range(DIGITS):
        styles = styles_of(i % 10)
        size, x, y, slant = torch.rand(4, generator=rng).tolist()
        draw(
            page,
            strokes_of(styles[i // 10 % len(styles)]),
            size=0.28 + 0.13 * size,
            x=0.47 + 0.06 * x,
            y=0.47 + 0.06 * y,
            slant=0.25 * slant,
        )
        answer = int(re.match(r"(\d) \(\d+\.\d%\)$", page.inner_text("#prediction"))[1])
        picture = page.evaluate("document.getElementById('draw').toDataURL()")
        (tmp_path / "digit.png").write_bytes(base64.b64decode(picture.split(",")[1]))
        image = lesson.read_own_digit(str(tmp_path / "digit.png"))
        theirs = logits_of(model, dl_utils.normalize(image[None])[0]).argmax().item()
        read.append(answer == i % 10)
        same.append(answer == theirs)
        page.click("#clear")
    times = sorted(page.evaluate("times"))
    print(f"\n{sum(read)} of {DIGITS} read, {sum(same)} as from their pictures,")
    print(f"{times[len(times) // 2]:.1f} ms per movement, {times[-1]:.1f} at most")
    assert sum(read) >= 0.9 * DIGITS
    assert sum(same) >= 0.95 * DIGITS


def test_a_finger_points_and_draws_without_scrolling(visit, write):
    page = visit(write()[0], width=400, has_touch=True, is_mobile=True)
    page.locator(".neuron").nth(5).tap()
    playwright.expect(page.locator("#question")).to_have_text("Neuron 6")
    page.evaluate("scrollTo(0, 0)")
    sheet = page.locator("#draw").bounding_box()
    fingers = page.context.new_cdp_session(page)
    x = sheet["x"] + sheet["width"] / 2
    for share in (0.2, 0.4, 0.6, 0.8):
        y = sheet["y"] + share * sheet["height"]
        fingers.send(
            "Input.dispatchTouchEvent",
            {
                "type": "touchStart" if share == 0.2 else "touchMove",
                "touchPoints": [{"x": x, "y": y}],
            },
        )
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.evaluate("scrollY") == 0
    assert page.inner_text("#prediction") != "Nothing yet"
    ink = page.evaluate("image")
    assert [y for y, row in enumerate(ink) if max(row)] == list(range(4, 24))


def test_the_image_is_made_like_those_of_mnist(visit, write):
    page = visit(write()[0])
    draw(page, strokes_of("50,0 20,100 95,100"), size=0.2, x=0.3, y=0.7)
    ink = torch.tensor(page.evaluate("image"))
    rows, columns = ink.nonzero(as_tuple=True)
    sides = [int(max(line) - min(line)) + 1 for line in (rows, columns)]
    assert max(sides) == 20
    places = torch.arange(28.0)
    for mass in (ink.sum(0), ink.sum(1)):
        assert (mass * places).sum() / mass.sum() == pytest.approx(14, abs=0.51)


def test_undo_takes_back_strokes_digits_and_clear(visit, write):
    page = visit(write()[0])
    draw_digit(page, 4)
    both = page.inner_text("#prediction"), page.inner_text("#meaning")
    page.click("#first button >> nth=0")
    assert "labelled" in page.inner_text("#note")
    page.click("#clear")
    assert page.inner_text("#prediction") == "Nothing yet"
    page.click("#undo")
    assert "labelled" in page.inner_text("#note")
    page.click("#undo")
    assert (page.inner_text("#prediction"), page.inner_text("#meaning")) == both
    for _ in range(4):
        page.click("#undo")
    assert page.inner_text("#prediction") == "Nothing yet"


def test_a_test_digit_is_seen_as_it_is_and_can_be_drawn_on(visit, write, digits):
    path, model = write()
    page = visit(path)
    page.click("#first button >> nth=3")
    image = torch.tensor(page.evaluate("image"))
    torch.testing.assert_close(dl_utils.normalize(image[None].byte())[0], digits[0][3])
    label = digits[1][3].item()
    answer = logits_of(model, digits[0][3]).argmax().item()
    assert page.inner_text("#prediction").startswith(f"{answer} ")
    assert f"labelled {label}:" in page.inner_text("#note")
    draw(page, strokes_of("0,0 100,100"), size=0.05)
    drawn = torch.tensor(page.evaluate("image"))
    assert (drawn != image).any()
    assert (drawn[:8] == image[:8]).all()


# ------------------------------------------------------------------------------
# It computes what PyTorch computes, and shows it
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden_size", [2, 128, 1000])
def test_logits_are_those_of_pytorch(visit, write, digits, hidden_size):
    path, model = write(hidden_size)
    page = visit(path)
    images = digits[0][:100]
    ours = page.evaluate(
        "images => images.map(network.logits)", images.flatten(1).tolist()
    )
    with torch.inference_mode():
        assert (torch.tensor(ours) - model(images)).abs().max() < 0.001
    assert re.search(r"agrees with PyTorch to 0\.0000\d+\.", page.inner_text("#proof"))
    shown = min(hidden_size, 128)
    assert page.locator(".neuron").count() == shown
    note = page.inner_text("#layer")
    assert f"{hidden_size:,} neurons" in note
    assert (f"{shown} are shown" in note) == (hidden_size > shown)
    parameters = dl_utils.count_parameters(model)
    assert f"{parameters:,} learned numbers" in page.inner_text("#about")


def test_evidence_adds_up_to_the_logit(visit, write, digits):
    path, model = write()
    page = visit(path)
    for image in digits[0][:3]:
        blank = image == image.min()
        for digit, logit in enumerate(logits_of(model, image).tolist()):
            pixels = image.flatten().tolist()
            found = page.evaluate("a => network.evidence(...a)", [pixels, digit])
            evidence = torch.tensor(found["pixels"], dtype=torch.float64)
            assert found["start"] + evidence.sum().item() == pytest.approx(
                logit, abs=1e-4
            )
            assert (evidence[blank.flatten()] == 0).all()


def test_the_sums_on_the_page_add_up(visit, write, digits):
    path, model = write()
    page = visit(path)
    page.click("#first button >> nth=0")
    image = digits[0][0]
    logits = logits_of(model, image).tolist()

    def total(name, expected):
        *terms, (shown_name, shown) = table(page).items()
        assert round(sum(value for _, value in terms), 2) == shown
        assert (shown_name, shown) == (name, pytest.approx(expected, abs=0.0051))

    for digit in (3, 8):
        page.click(f"#digits button >> nth={digit}")
        assert page.inner_text("#question") == f"Why {digit}?"
        total(f"Logit of {digit}", logits[digit])
    page.select_option("#digit", "4")
    page.select_option("#rival", "9")
    assert page.inner_text("#question") == "Why 4 and not 9?"
    total("Lead of 4 over 9", logits[4] - logits[9])

    with torch.inference_mode():
        sums = model.fc1(image.flatten())
    for neuron in (sums.argmax().item(), sums.argmin().item()):
        page.click(f".neuron >> nth={neuron}")
        total("Sum", sums[neuron].item())
        lit = "is lit" in page.inner_text("#meaning")
        assert lit == (sums[neuron] > 0).item()
        voices = page.locator("#voices .bar > :last-child").all_inner_texts()
        weights = model.fc2.weight[:, neuron].tolist()
        assert [float(v.replace("\u2212", "-")) for v in voices] == pytest.approx(
            weights, abs=0.0051
        )


def test_pointing_shows_and_pressing_keeps(visit, write):
    page = visit(write()[0])
    draw_digit(page, 4)
    answer = page.inner_text("#question")
    page.hover(".neuron >> nth=7")
    assert page.inner_text("#question") == "Neuron 8"
    page.hover("h1")
    assert page.inner_text("#question") == answer
    page.click(".neuron >> nth=7")
    page.hover("#digits button >> nth=2")
    assert page.inner_text("#question") == "Why 2?"
    page.hover("h1")
    assert page.inner_text("#question") == "Neuron 8"
    page.click(".neuron >> nth=7")
    page.hover("h1")
    assert page.inner_text("#question") == answer


def test_the_keyboard_reaches_everything(visit, write):
    page = visit(write()[0])
    stops = []
    for _ in range(8):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.parentNode.id"
            )
        )
    assert stops == [
        *("undo", "clear", "digits", "digit", "rival", "neurons", "first", "mistakes")
    ]
    page.keyboard.press("Enter")  # the surest mistake
    assert "wrong" in page.inner_text("#note")
    page.focus(".neuron >> nth=0")
    for key, question in {
        "ArrowRight": "Neuron 2",
        "ArrowDown": "Neuron 18",
        "ArrowLeft": "Neuron 17",
        "ArrowUp": "Neuron 1",
    }.items():
        page.keyboard.press(key)
        assert page.inner_text("#question") == question
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("kept") == {"neuron": 0}


def test_a_changed_network_is_not_passed_off_as_the_learners(visit, write, lesson):
    page = visit(write(model=lesson.ForgetfulNN())[0])
    assert "differs from PyTorch" in page.inner_text("#proof")
    assert page.get_attribute("#proof", "class") == "warning"


# ------------------------------------------------------------------------------
# It can be read everywhere
# ------------------------------------------------------------------------------

# Texts that stick out of what holds them, and texts paler than WCAG AA allows.
FAULTS = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const light = (colour) => numbers(colour).slice(0, 3).reduce((sum, c, i) =>
        sum + [0.2126, 0.7152, 0.0722][i] * linear(c / 255), 0.05);
    const ground = (node) => {
        const colour = getComputedStyle(node).backgroundColor;
        return (numbers(colour)[3] ?? 1) ? colour : ground(node.parentElement);
    };
    const faults = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode());) {
        const holder = node.parentElement;
        const range = document.createRange();
        range.selectNodeContents(node);
        const text = range.getBoundingClientRect();
        if (!text.width || holder.closest("select")) continue;
        const box = holder.closest("button, section, header").getBoundingClientRect();
        if (text.left < box.left || text.right > box.right || text.right > innerWidth
            || text.top < box.top - 1 || text.bottom > box.bottom + 1) {
            faults.push(`sticks out: ${node.textContent}`);
        }
        const shades = [light(getComputedStyle(holder).color), light(ground(holder))];
        if (Math.max(...shades) / Math.min(...shades) < 4.5) {
            faults.push(`pale: ${node.textContent}`);
        }
    }
    const wide = document.documentElement.scrollWidth > innerWidth;
    return wide ? [...faults, "scrolls sideways"] : faults;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1200])
def test_nothing_is_clipped_or_pale(visit, write, width, scheme):
    page = visit(write(1000)[0], width, color_scheme=scheme)
    assert page.evaluate(FAULTS) == []
    page.click("#mistakes button >> nth=0")
    assert page.evaluate(FAULTS) == []
    page.click(".neuron >> nth=127")
    assert page.evaluate(FAULTS) == []
    page.click("#digits button >> nth=9")
    page.select_option("#rival", "4")
    assert page.evaluate(FAULTS) == []


# ------------------------------------------------------------------------------
# It is one small, harmless file
# ------------------------------------------------------------------------------


def test_it_is_small(write):
    assert write()[0].stat().st_size <= 1e6


@pytest.mark.parametrize(
    "name",
    ["</script><script>alert(1)</script>", "<!--<script>", "@@DATA@@ \u2028'\"&"],
)
def test_no_name_breaks_out(visit, write, name):
    file_name = name.replace("/", "") + ".html"
    path, _ = write(name=file_name, dataset=name)
    page = visit(path)
    assert name.replace("\u2028", "") in page.text_content("#about").replace(
        "\u2028", ""
    )
    assert page.locator("script").count() == 2
    draw_digit(page, 7)
    assert page.inner_text("#prediction") != "Nothing yet"


def test_it_allows_no_request(visit, write):
    page = visit(write()[0])
    policy = page.get_attribute("meta[http-equiv]", "content")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_other_layers_are_refused(write):
    with pytest.raises(UserError, match="fc1 and fc2"):
        write(model=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)))


def test_a_page_that_cannot_be_written_is_explained(write, tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match=r"page\.html cannot be written"):
        write()


# ------------------------------------------------------------------------------
# The README's picture
# ------------------------------------------------------------------------------


def draw_picture(weights_path, picture_path):
    lesson = load_script("04_load_model.py")
    model = lesson.load_model(weights_path, 128, "cpu")
    test_set = dl_utils.load_mnist_data()[2].dataset
    page_path = Path(picture_path).resolve().with_suffix(".html")
    write_network_page(page_path, model, *test_set.tensors, test_set.name)
    with contextlib.contextmanager(browser.__wrapped__)() as chromium:
        page = chromium.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(page_path.as_uri())
        draw(page, strokes_of(styles_of(4)[0]))
        page.select_option("#rival", "9")
        page.mouse.move(0, 0)
        page.screenshot(path=picture_path, full_page=True)
    page_path.unlink()


if __name__ == "__main__":
    draw_picture(*sys.argv[1:])
