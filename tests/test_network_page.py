"""The page that lesson 4 writes, in a real browser, without a network.

PYTHONPATH=. python tests/test_network_page.py my_network.html images/my_network.png
draws the README's picture, of the page that lesson 4 has written.
"""

import base64
import contextlib
import functools
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import conftest
import dl_utils
from backstage.data.batches import ImageDataset
from backstage.data.synthetic_digits import STYLES, _read_style, make_digits
from backstage.own.handwriting import read_own_digit
from backstage.page.writer import write_network_page
from backstage.terminal import UserError
from conftest import load_script

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install playwright"
)

playwright.expect.set_options(timeout=60_000)  # ms: the machine may be busy


@functools.cache
def make_set(seed, name="synthetic"):
    """Return 200 digits: images as a network gets them, and labels."""
    images, labels = make_digits(200, seed)
    data = SimpleNamespace(name=name, title=name, axes="", classes=list("0123456789"))
    return ImageDataset(data, dl_utils.normalize(images), labels)


def write_page(path, model, name="synthetic"):
    layers = (model.fc1, model.fc2)
    write_network_page(path, model, layers, make_set(2), make_set(1, name))
    return path


@pytest.fixture
def model(request):
    """An untrained network, with 128 neurons if a test does not say otherwise."""
    torch.manual_seed(0)
    hidden_size = getattr(request, "param", 128)
    return load_script("04_load_model.py").SimpleNN(hidden_size).eval()


@pytest.fixture
def path(model, tmp_path):
    return write_page(tmp_path / "page.html", model)


@pytest.fixture
def page(visit, path):
    return visit(path)


def draw(page, style, size=0.37, x=0.5, y=0.5, slant=0.0):
    """Draw a style's strokes by mouse; sizes and places are shares of the sheet."""
    page.locator("#draw").scroll_into_view_if_needed()
    sheet = page.locator("#draw").bounding_box()  # a square
    corner = torch.tensor([sheet["x"], sheet["y"]])
    lean = torch.tensor([[1.0, 0.0], [-slant, 1.0]])
    for stroke in style.split("/"):
        points, weights = _read_style(stroke)
        begins, ends = (points.T @ weights).T.chunk(2)  # of 64 pieces around (0, 0)
        shares = torch.cat([begins[::12], ends[-1:]]) @ lean * size
        shares += torch.tensor([x, y])
        first, *others = (corner + sheet["width"] * shares).tolist()
        page.mouse.move(*first)
        page.mouse.down()
        for point in others:
            page.mouse.move(*point)
        page.mouse.up()


def draw_digit(page, digit, number=0, **hand):
    """Draw a digit in one of its styles, counted round."""
    styles = [strokes for label, _, strokes in STYLES if label == digit]
    draw(page, styles[number % len(styles)], **hand)


def read_digit(page):
    """Return what the page reads, and check how it says so."""
    answer = page.inner_text("#prediction")
    return int(re.match(r"(\d) \((over 99\.9|100\.0|\d\d?\.\d)%\)$", answer)[1])


def table(page, name):
    """Return the numbers of a table by the names of its rows, without its head."""
    rows = page.locator(f"#{name} tr:has(th)").all_inner_texts()
    plain = str.maketrans("\u2212", "-", "<>%")
    cells = (row.translate(plain).split("\t") for row in rows)
    return {row: list(map(float, numbers)) for row, *numbers in cells}


def picture_of(page, canvas):
    """Return what a canvas shows, uint8 [height, width, 4]."""
    url = page.evaluate(f"document.getElementById('{canvas}').toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as picture:
        return np.array(picture.convert("RGBA"))


def colours_of(page, canvas):
    """Return the colour in a corner of each of the 784 pixels, int [784, 3]."""
    rgba = picture_of(page, canvas)
    side = len(rgba) // 28
    return torch.from_numpy(rgba[::side, ::side, :3].reshape(784, 3).astype(int))


def assert_red_and_blue(colours, values):
    """Red where a value is clearly above 0, blue where it is clearly below."""
    clear = values.abs() > 0.1 * values.abs().max()
    assert (clear & (values > 0)).any() and (clear & (values < 0)).any()
    assert ((colours[:, 0] > colours[:, 2]) == (values > 0))[clear].all()


@pytest.mark.real_mnist
def test_it_reads_drawn_digits_and_as_lesson_4_reads_their_pictures(
    visit, trained_model_path, tmp_path
):
    model = load_script("04_load_model.py").load_model(trained_model_path, 128, "cpu")
    page = visit(write_page(tmp_path / "page.html", model))
    rng = torch.Generator().manual_seed(0)
    read = same = 0
    for i in range(100):
        size, x, y, slant = torch.rand(4, generator=rng).tolist()
        hand = {"size": 0.28 + 0.13 * size, "slant": 0.25 * slant}
        place = {"x": 0.47 + 0.06 * x, "y": 0.47 + 0.06 * y}
        draw_digit(page, i % 10, i // 10, **hand, **place)
        answer = read_digit(page)
        Image.fromarray(picture_of(page, "draw")).save(tmp_path / "digit.png")
        image = read_own_digit(str(tmp_path / "digit.png"))
        theirs = model(dl_utils.normalize(image[None])).argmax().item()
        read += answer == i % 10
        same += answer == theirs
        page.click("#clear")
    assert read >= 90
    assert same >= 95


def test_a_finger_points_and_draws_without_scrolling(visit, path):
    page = visit(path, width=400, has_touch=True, is_mobile=True)
    page.locator(".neuron").nth(5).tap()
    playwright.expect(page.locator("#question")).to_have_text("Neuron 5")
    page.evaluate("scrollTo(0, 0)")
    sheet = page.locator("#draw").bounding_box()
    fingers = page.context.new_cdp_session(page)
    x = sheet["x"] + sheet["width"] / 2
    for step, kind in enumerate(["Start", "Move", "Move", "Move", "End"]):
        y = sheet["y"] + (0.2 + 0.2 * step) * sheet["height"]
        points = [{"x": x, "y": y}] if kind != "End" else []
        event = {"type": f"touch{kind}", "touchPoints": points}
        fingers.send("Input.dispatchTouchEvent", event)
    assert page.evaluate("scrollY") == 0
    ink = page.evaluate("image")
    assert [y for y, row in enumerate(ink) if max(row)] == list(range(4, 24))


def test_the_image_is_made_like_those_of_mnist(page):
    draw(page, "50,0 20,100 95,100", size=0.2, x=0.3, y=0.7)
    ink = torch.tensor(page.evaluate("image"))
    rows, columns = ink.nonzero(as_tuple=True)
    assert max(int(max(line) - min(line)) + 1 for line in (rows, columns)) == 20
    for mass in (ink.sum(0), ink.sum(1)):
        assert np.average(range(28), weights=mass) == pytest.approx(14, abs=0.51)
    shares = page.evaluate("softmax(result.logits)")
    likeliest = np.argsort(shares)[::-1]
    first, second = (f"{i} ({100 * shares[i]:.1f}%)" for i in likeliest[:2])
    assert page.inner_text("#prediction") == first
    assert page.text_content("#spoken") == f"It reads {first}"  # to a screen reader
    assert page.inner_text("#note") == f"Second guess: {second}."
    page.click("#clear")
    draw_digit(page, 4, size=0.1)
    assert "Draw larger" in page.inner_text("#note")


def test_undo_takes_back_strokes_digits_and_clear(page):
    draw_digit(page, 4)
    both = page.inner_text("#prediction"), page.inner_text("#meaning")
    page.click("#first button >> nth=0")
    page.click("#digits button >> nth=3")
    page.click("#clear")
    assert page.inner_text("#prediction") == "Nothing yet"
    assert page.inner_text("#question") == "Why this digit?"
    page.click("#undo")
    assert "Labelled" in page.inner_text("#note")
    page.click("#undo")
    assert (page.inner_text("#prediction"), page.inner_text("#meaning")) == both


def test_test_digits_are_seen_as_they_are_and_can_be_drawn_on(page, model):
    images, labels = make_set(1).tensors
    shares = model(images).softmax(dim=1).detach()
    confidences, answers = shares.max(dim=1)
    wrong = (answers != labels).nonzero().flatten()
    surest = wrong[confidences[wrong].argsort(descending=True)[:10]].tolist()
    buttons = page.locator("#first button, #mistakes button")
    names = buttons.evaluate_all("all => all.map((button) => button.ariaLabel)")
    pairs = list(zip(labels, answers, strict=True))
    tests = [f"Test: {label}, taken for {answer}" for label, answer in pairs]
    mistakes = [f"{labels[i]} \u2192 {answers[i]} {tests[i]}" for i in surest]
    assert names == tests[:10] + mistakes

    for place, i in enumerate([*range(10), surest[0]]):
        buttons.nth(place).click()
        right = answers[i] == labels[i]
        remark = "right. Draw on it" if right else "wrong. Can you mend"
        assert page.inner_text("#note").startswith(f"Labelled {labels[i]}: {remark}")
    buttons.nth(3).click()
    image = torch.tensor(page.evaluate("image"))
    torch.testing.assert_close(dl_utils.normalize(image[None].byte())[0], images[3])
    assert (colours_of(page, "seen") == image.flatten()[:, None]).all()
    assert read_digit(page) == answers[3]
    for digit, share in enumerate(shares[3].tolist()):
        bar = page.locator("#digits button").nth(digit)
        assert bar.inner_text().split() == [str(digit), f"{100 * share:.1f}%"]
        assert ("best" in bar.get_attribute("class")) == (digit == answers[3])
        width = float(bar.locator("i").get_attribute("style")[7:-2])  # "width: 12%;"
        assert width == pytest.approx(100 * share, abs=0.01)
    draw(page, "0,0 100,100", size=0.05)
    drawn = torch.tensor(page.evaluate("image"))
    assert (drawn != image).any()
    assert (drawn[:8] == image[:8]).all()


@pytest.mark.parametrize("model", [2, 1000], indirect=True)
def test_logits_are_those_of_pytorch(page, model):
    images = make_set(1).tensors[0][:100]
    pixels = images.flatten(1).tolist()
    ours = torch.tensor(page.evaluate("a => a.map(network.logits)", pixels))
    assert (ours - model(images)).abs().max() < 0.001
    assert re.search(r"agrees with PyTorch to 0\.0000\d+\.", page.inner_text("#proof"))
    hidden_size = model.fc1.out_features
    assert page.locator(".neuron").count() == min(hidden_size, 128)
    some = ", 128 are shown" if hidden_size > 128 else ""
    assert page.inner_text("#layer") == f"Its {hidden_size:,} neurons{some}"
    parameters = dl_utils.count_parameters(model)
    assert f"{parameters:,} learned numbers" in page.inner_text("#about")
    shares = page.evaluate("[1, 0.9996, 0.9994, 0.0006, 0.0004, 0].map(percent)")
    texts = "100.0%, over 99.9%, 99.9%, 0.1%, under 0.1%, 0.0%"
    assert ", ".join(shares) == texts


def test_a_changed_network_is_not_passed_off_as_the_learners(visit, model, tmp_path):
    model.relu = torch.nn.Tanh()
    page = visit(write_page(tmp_path / "page.html", model))
    assert "differs from PyTorch" in page.inner_text("#proof")
    assert page.get_attribute("#proof", "class") == "warning"


def assert_voices(page, values):
    """The bars at "Why?" are these, name -> value, and are drawn to scale."""
    bars = page.locator("#voices .bar:visible").evaluate_all(
        "bars => bars.map((bar) => [bar.className, ...bar.innerText.split(/\\s+/),"
        " parseFloat(bar.querySelector('i').style.width)])"
    )
    most = max(map(abs, values.values()))
    pairs = zip(bars, values.items(), strict=True)
    for (kind, name, text, width), (expected, value) in pairs:
        assert name == str(expected)
        assert float(text.replace("\u2212", "-")) == pytest.approx(value, abs=0.0051)
        assert kind == ("bar minus" if value < 0 else "bar plus")
        assert width == pytest.approx(50 * abs(value) / most, abs=0.01)


def test_the_sums_on_the_page_add_up(page, model):
    page.click("#first button >> nth=0")
    image = make_set(1).tensors[0][0]
    logits = model(image)[0].tolist()
    sums = model.fc1(image.flatten()).detach()
    hidden = sums.relu()
    weights = model.fc2.weight.detach()

    def total(name, expected):
        *terms, (shown_name, (shown,)) = table(page, "sum").items()
        assert round(sum(value for _, (value,) in terms), 2) == shown
        assert (shown_name, shown) == (name, pytest.approx(expected, abs=0.0051))
        return {name: value for name, (value,) in terms}

    for digit in range(10):
        page.click(f"#digits button >> nth={digit}")
        assert page.inner_text("#question") == f"Why {digit}?"
        terms = total(f"Logit of {digit}", logits[digit])
        found = page.evaluate(f"network.evidence(normalize(image), {digit})")
        evidence = torch.tensor(found["pixels"], dtype=torch.float64)
        total_found = found["start"] + evidence.sum().item()
        assert total_found == pytest.approx(logits[digit], abs=1e-4)
        assert (evidence[(image == image.min()).flatten()] == 0).all()
        assert_red_and_blue(colours_of(page, "map"), evidence)
        assert terms == pytest.approx(
            {
                "Blank page": found["start"],
                f"Ink for {digit}": evidence.clamp(min=0).sum().item(),
                f"Ink against {digit}": evidence.clamp(max=0).sum().item(),
            },
            abs=0.021,  # rounded so that the sum is right
        )
        voices = hidden * weights[digit]
        largest = voices.abs().argsort(descending=True)[:10].tolist()
        assert_voices(page, {i: voices[i].item() for i in largest})
    page.select_option("#digit", "4")
    page.select_option("#rival", "9")
    assert page.inner_text("#question") == "Why 4 and not 9?"
    total("Lead of 4 over 9", logits[4] - logits[9])
    likelier = 4 if logits[4] > logits[9] else 9
    times = np.exp(abs(logits[4] - logits[9]))
    lead = f"So {likelier} comes out {float(f'{times:.2g}'):g} times as likely"
    assert lead in page.inner_text("#meaning")

    lit = f"{(sums > 0).sum()} of its 128 neurons"
    assert page.inner_text("#layer").startswith(lit)
    lamps = page.locator(".neuron i").evaluate_all(
        "lamps => lamps.map((lamp) => Number(lamp.style.opacity))"
    )
    assert lamps == pytest.approx((hidden / hidden.max()).tolist(), abs=1e-4)
    for neuron in (sums.argmax().item(), sums.argmin().item()):
        page.click(f".neuron >> nth={neuron}")
        total("Sum", sums[neuron].item())
        lit = (sums[neuron] > 0).item()
        assert ("is lit" in page.inner_text("#meaning")) == lit
        value = f"{sums[neuron]:.2f}" if lit else "dark"
        name = page.get_attribute(f".neuron >> nth={neuron}", "aria-label")
        assert name == f"Neuron {neuron}: {value}"
        assert_red_and_blue(colours_of(page, "map"), model.fc1.weight[neuron].detach())
        assert_voices(page, dict(enumerate(weights[:, neuron].tolist())))


def test_pointing_shows_and_pressing_keeps(page):
    draw_digit(page, 4)
    answer = page.inner_text("#question")
    for point, target, question in (
        (page.hover, ".neuron >> nth=7", "Neuron 7"),
        (page.hover, "h1", answer),
        (page.click, ".neuron >> nth=7", "Neuron 7"),
        (page.hover, "#digits button >> nth=2", "Why 2?"),
        (page.hover, "h1", "Neuron 7"),
        (page.click, ".neuron >> nth=7", answer),
    ):
        point(target)
        assert page.inner_text("#question") == question


def test_the_keyboard_reaches_everything(page):
    focused = "document.activeElement.id || document.activeElement.parentNode.id"
    stops = []
    while "mistakes" not in stops:
        page.keyboard.press("Tab")
        stops.append(page.evaluate(focused))
    assert stops == [
        *("undo", "clear", "digits", "label", "teach", "keep", "reset", "rate"),
        *("among", "neurons", "digit", "rival", "first", "mistakes"),
    ]
    page.keyboard.press("Enter")  # the surest mistake
    assert "wrong" in page.inner_text("#note")
    page.focus(".neuron >> nth=0")
    for key, neuron in {"Right": 1, "Down": 17, "Left": 16, "Up": 0}.items():
        page.keyboard.press(f"Arrow{key}")
        assert page.inner_text("#question") == f"Neuron {neuron}"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"


def sgd(model, images, labels, rate):
    """Make one step in PyTorch; return the loss before it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def test_steps_are_those_of_pytorch(page, model):
    images, labels = make_set(1).tensors
    pixels = images.flatten(1).tolist()
    for i in range(10):
        example = [pixels[i], labels[i].item(), 0.05]
        ours = page.evaluate("a => network.step(...a)", example)
        theirs = sgd(model, images[i : i + 1], labels[i : i + 1], 0.05)
        assert ours == pytest.approx(theirs, abs=1e-5)
    batch = zip(pixels[:17], labels[:17].tolist(), strict=True)
    batch = [{"pixels": image, "label": label} for image, label in batch]
    ours = page.evaluate("batch => train(batch, 0.05).loss", batch)
    assert ours == pytest.approx(sgd(model, images[:17], labels[:17], 0.05), abs=1e-5)
    for name, parameter in model.named_parameters():
        rows = f"[...{name}].map((row) => (row.length ? [...row] : row))"  # or numbers
        assert (torch.tensor(page.evaluate(rows)) - parameter).abs().max() < 1e-5


def test_a_drawing_is_taught_and_the_network_put_back(page, model):
    images, labels = make_set(1).tensors

    def right():
        return (model(images).argmax(1) == labels).sum().item()

    draw_digit(page, 4)
    page.click("#teach")
    assert "First say what it was" in page.inner_text("#told")
    pixels = dl_utils.normalize(torch.tensor([page.evaluate("image")]).byte())
    before, right_before = model(pixels)[0].tolist(), right()
    say_again = "network.logits(normalize(image))"
    page.click("#label >> text=7")
    page.select_option("#rate", "0.1")
    page.click("#teach")
    loss = sgd(model, pixels, torch.tensor([7]), 0.1)
    after = model(pixels)[0]
    assert page.evaluate(say_again) == pytest.approx(after.tolist(), abs=1e-4)
    logs = [torch.tensor(before).log_softmax(0)[7], after.log_softmax(0)[7]]
    gain = table(page, "gain")
    assert gain["Loss"] == pytest.approx([-log.item() for log in logs], abs=1e-3)
    shares = [100 * log.exp().item() for log in logs]
    assert gain["Share of 7"] == pytest.approx(shares, abs=0.11)
    assert gain["Right of 200 test digits"] == [right_before, right()]
    told = page.inner_text("#told")
    assert f"reads {right()} right; as it was trained, {right_before}." in told
    assert ("ruins" in told) == (right_before - right() > 10)

    steps = page.locator("#steps li").all_inner_texts()
    names = ["zero_grad", "forward", "loss", "backward", "step"]
    assert [step.split(":")[0] for step in steps] == names
    gradients = torch.cat([weights.grad.flatten() for weights in model.parameters()])
    assert f"it says {np.argmax(before)}, and gives 7" in steps[1]
    assert f"= {loss:.3f}" in steps[2]
    assert f"{(gradients == 0).sum():,} are 0" in steps[3]
    assert f"at most by {0.1 * gradients.abs().max():.2g}" in steps[4]
    slopes = model.fc1.weight.grad
    changed = slopes.norm(dim=1).argmax()
    assert f"Neuron {changed} changed most" in page.inner_text("#changed")
    assert_red_and_blue(colours_of(page, "change"), -slopes[changed])

    page.click("#reset")
    assert page.evaluate(say_again) == pytest.approx(before, abs=1e-5)
    assert f"as it was trained: {right_before} of 200" in page.inner_text("#told")
    page.check("#among")
    assert page.input_value("#rate") == "0.01"
    page.click("#teach")
    steps = page.locator("#steps li").all_inner_texts()
    assert "16 others" in steps[1] and "mean of all 17" in steps[2]


def keep(page, drawn, label, **hand):
    draw_digit(page, drawn, **hand)
    page.click(f"#label >> text={label}")
    page.click("#keep")
    image = page.evaluate("image")
    page.click("#clear")
    return image


def save(page):
    """Return the saved sheet, a file to open, and its cells that are not empty."""
    with page.expect_download() as download:
        page.click("#save")
    path, name = download.value.path(), download.value.suggested_filename
    assert name == "my_digits.png"
    with Image.open(path) as picture:
        rgba = np.asarray(picture.convert("RGBA"))
    assert (rgba[..., 3] == 255).all() and (rgba[..., :1] == rgba[..., :3]).all()
    cells = rgba[..., 0].reshape(-1, 28, 10, 28).swapaxes(1, 2)
    full = cells.max(axis=(2, 3)) > 64
    assert not cells[~full].any()
    file = {"name": name, "mimeType": "image/png", "buffer": path.read_bytes()}
    return file, {(y, x): cells[y, x].tolist() for y, x in np.argwhere(full)}


def test_what_is_kept_is_saved_opened_removed_and_taught(page, visit, path):
    images = [keep(page, 4, 9), keep(page, 1, 1), keep(page, 4, 9, slant=0.3)]
    file, cells = save(page)
    places = [(0, 9), (0, 1), (1, 9)]
    assert cells == dict(zip(places, images, strict=True))

    page = visit(path)
    shelf = playwright.expect(page.locator("#shelf"))
    for added in (3, 0):
        page.set_input_files("#open", file)
        shelf.to_contain_text(f"{added} opened. 3 kept")
    page.click("#cells button >> nth=1")  # the first 9
    assert page.evaluate("image") == images[0]
    page.click("#remove")
    images[0] = keep(page, 7, 9)  # fills the free cell
    assert save(page)[1] == dict(zip(places, images, strict=True))
    page.click("#teach-all")
    shelf.to_contain_text("Of 3 kept ones")
    numbers = [int(n) for n in re.findall(r"\d+", page.inner_text("#shelf"))]
    assert numbers[-1] > numbers[-2]  # right of the test digits

    page.click("#first button >> nth=0")
    page.click("#keep")
    assert "to test with" in page.inner_text("#told")
    assert page.locator("#cells button").count() == 3


def test_other_files_are_refused(page, tmp_path):
    shelf = playwright.expect(page.locator("#shelf"))
    for name, size, colour, complaint in (
        ("wide.png", (281, 28), "black", "281 x 28 pixels"),
        ("torn.png", (280, 30), "black", "280 x 30 pixels"),
        ("long.png", (280, 28 * 201), "black", "at most 200 rows"),
        ("red.png", (280, 28), "red", "colours"),
        ("glass.png", (280, 28), "#ffffff80", "transparent"),
        ("other.gif", (280, 28), "black", "no PNG"),
        ("text.png", None, None, "damaged"),
        ("huge.png", None, None, "too large"),
    ):
        (tmp_path / name).write_text(
            "no picture" * (1_000_001 if "huge" in name else 1)
        )
        if size:
            Image.new("RGBA", size, colour).save(tmp_path / name)
        page.set_input_files("#open", tmp_path / name)
        shelf.to_have_text(re.compile(f"{name} is not opened: .*{complaint}"))
    sheet = Image.new("L", (280, 28))
    sheet.putpixel((5, 9), 64)  # counts as empty
    sheet.putpixel((33, 9), 65)
    sheet.save(tmp_path / "faint.png")
    page.set_input_files("#open", tmp_path / "faint.png")
    shelf.to_contain_text("1 opened. 1 kept")


def test_leaving_with_unsaved_examples_asks_first(browser, path):
    for saved in (True, False):
        page, asked = browser.new_page(), []
        page.on("dialog", lambda dialog, to=asked: to.append(1) or dialog.accept())
        page.goto(path.as_uri())
        keep(page, 4, 4)
        if saved:
            save(page)
        page.goto("about:blank")
        assert bool(asked) != saved
        page.close()


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
        if (!text.width || holder.closest("select, .unseen")) continue;
        const box = holder.closest("button, section, body").getBoundingClientRect();
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


@pytest.mark.parametrize("model", [1000], indirect=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_clipped_or_pale(visit, path, scheme):
    page = visit(path, color_scheme=scheme)

    def assert_no_faults():
        for width in (400, 800, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate(FAULTS) == [], width

    assert_no_faults()
    page.click("#mistakes button >> nth=0")
    page.click("#teach")
    assert_no_faults()
    page.click(".neuron >> nth=127")
    assert_no_faults()
    page.click("#digits button >> nth=9")
    page.select_option("#rival", "4")
    assert_no_faults()
    page.set_viewport_size({"width": 400, "height": 800})
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert "scrolls sideways" not in page.evaluate(FAULTS)


def test_the_answer_is_in_view_while_one_draws(page):
    for width, height in ((390, 660), (683, 640), (844, 340), (1024, 640), (1200, 800)):
        page.set_viewport_size({"width": width, "height": height})
        for part in ("#draw", "#prediction", "#digits"):
            box = page.locator(part).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= height, (part, width)


def test_bars_stay_visible_in_high_contrast_and_in_print(visit, path):
    page = visit(path, color_scheme="dark")
    page.click("#first button >> nth=0")

    def style(part, name):
        return page.locator(part).evaluate(f"node => getComputedStyle(node).{name}")

    page.emulate_media(forced_colors="active")
    assert style(".best i", "backgroundColor") != style(".answer", "backgroundColor")
    assert style(".best b", "borderTopStyle") == "solid"
    page.emulate_media(media="print", forced_colors="none")
    assert style("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert style(".best i", "printColorAdjust") == "exact"


def test_it_allows_no_request_and_no_name_breaks_out(visit, model, tmp_path):
    name = "</script><script>alert()</script> @@DATA@@ '\"&"
    page = visit(write_page(tmp_path / "page.html", model, name))
    assert name in page.text_content("#about")
    assert page.locator("script").count() == 8  # seven parts, and the data
    policy = page.get_attribute("meta[http-equiv]", "content")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.mark.real_mnist
def test_it_is_small_and_names_the_authors_of_its_digits(lessons_on_mnist):
    page = lessons_on_mnist.folder / "my_network.html"
    assert page.stat().st_size <= 1e6
    assert "Yann LeCun" in page.read_text(encoding="utf-8")


def test_without_javascript_it_says_what_it_needs(browser, path):
    page = browser.new_page(java_script_enabled=False)
    page.goto(path.as_uri())
    assert "needs JavaScript" in page.inner_text("#proof")
    assert not page.is_visible("#draw")
    page.close()


def test_a_page_that_cannot_be_written_is_explained(model, tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match=r"page\.html cannot be written"):
        write_page(tmp_path / "page.html", model)


if __name__ == "__main__":
    page_path, picture_path = sys.argv[1:]
    with contextlib.contextmanager(conftest.browser.__wrapped__)() as chromium:
        page = chromium.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(Path(page_path).resolve().as_uri())
        draw_digit(page, 4)
        page.select_option("#rival", "9")
        page.mouse.move(0, 0)
        page.screenshot(path=picture_path, full_page=True)
