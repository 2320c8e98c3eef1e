"""The page that lesson 4 writes for a network that hears, in a real browser."""

import re

import pytest
import torch

import dl_utils
from backstage.data.datasets import load_recordings
from backstage.own.examples import read_own_examples
from backstage.page.writer import write_network_page
from backstage.sound import resample, to_image, trim_silence, write_sound
from conftest import find_chromium, load_script
from test_network_page import FAULTS, playwright

pytestmark = pytest.mark.usefixtures("real_fsdd_dir")


@pytest.fixture(scope="session")
def sets():
    """The training and test set of each kind, as the loaders hold them."""
    return {
        name: [loader.dataset for loader in dl_utils.load_mnist_data(dataset=name)[::2]]
        for name in ("spoken", "speakers", "new-voices")
    }


@pytest.fixture(scope="session")
def networks(sets):
    """Networks that were trained for a few seconds."""
    models = {}
    for name in ("spoken", "speakers"):
        torch.manual_seed(0)
        models[name] = model = load_script("04_load_model.py").SimpleNN()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        images, labels = sets[name][0].tensors
        for _ in range(80):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()
    return models


@pytest.fixture
def write(sets, networks, tmp_path):
    def write(name="spoken"):
        model, path = networks.get(name, networks["spoken"]), tmp_path / f"{name}.html"
        write_network_page(path, model, (model.fc1, model.fc2), *sets[name])
        return path

    return write


@pytest.fixture
def page(visit, write):
    return visit(write())


@pytest.fixture(scope="session")
def recordings():
    return {(r.digit, r.voice, r.index): r.samples for r in load_recordings()}


@pytest.fixture
def say(tmp_path):
    """Open a sound on a page, and wait for what the page says of it."""

    def say(page, samples, answer="it uses"):
        write_sound(tmp_path / "said.wav", samples)
        page.set_input_files("#open-sound", tmp_path / "said.wav")
        answers(page, answer)

    return say


def in_a_quiet_room(word, seconds=2.0):
    """Return a recording that begins with 0.3 s of silence, then a word."""
    samples = 0.0003 * torch.randn(int(8000 * seconds), generator=torch.Generator())
    samples[2400 : 2400 + len(word)] += word
    return samples


def gap(ours, image):
    return (torch.tensor(ours) - image.flatten().int()).abs().max()


def answers(page, text, part="#listening"):
    playwright.expect(page.locator(part)).to_contain_text(text)


def test_images_are_those_of_pytorch(page, recordings):
    proof = page.inner_text("#proof")
    assert re.search(r"images of recordings differ by at most [01] of 255", proof)
    image = "a => network.image(...a)"
    for word in list(recordings.values())[::300]:
        assert gap(page.evaluate(image, [word.tolist(), 8000]), to_image(word)) <= 1
        said = in_a_quiet_room(word, 2.7)
        ours = page.evaluate("a => network.heard(a, 8000)", said.tolist())
        assert gap(ours, to_image(trim_silence(said))) <= 1
    # 5,500 Hz must not come back as 2,500 Hz.
    tones = [(16_000, 3_900), (44_100, 300), (44_100, 5_500), (48_000, 5_500)]
    for rate, hertz in tones:
        seconds = torch.arange(rate) / rate
        tone = 0.05 * torch.sin(2 * torch.pi * 700 * seconds)
        tone += 0.5 * torch.sin(2 * torch.pi * hertz * seconds)
        ours = page.evaluate(image, [tone.tolist(), rate])
        assert gap(ours, to_image(resample(tone, rate))) <= 1, (rate, hertz)


def test_a_file_is_opened_and_shown(page, say, recordings, networks):
    said = in_a_quiet_room(recordings[7, "theo", 2])
    spoken = trim_silence(said)
    say(page, said, f"Of 2.00 s it uses {len(spoken) / 8000:.2f} s.")
    image = dl_utils.normalize(to_image(spoken)[None])
    shares = networks["spoken"](image)[0].softmax(0)
    answer, percent = re.findall(r"\d+\.?\d*", page.inner_text("#prediction"))
    assert int(answer) == shares.argmax()
    assert float(percent) == pytest.approx(100 * shares.max().item(), abs=0.5)
    assert f"Why {answer}?" in page.inner_text("#question")
    assert "Silence" in page.inner_text("#sum")
    assert page.evaluate(FAULTS) == []
    page.click("#first button >> nth=3")
    page.click("#play")
    assert "Labelled 3" in page.inner_text("#note")


def test_what_is_no_word_gets_one_sentence(page, say, tmp_path):
    for name, content, sentence in (
        ("text.mp3", b"no sound", "text.mp3 is not opened: it holds no sound"),
        ("large.wav", bytes(5_000_000), "too large"),
    ):
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#open-sound", tmp_path / name)
        answers(page, sentence)
    click = torch.zeros(16_000)
    click[8000:8050] = 0.5
    say(page, click, "too short")
    say(page, 0 * click, "but silence")
    say(page, torch.rand(48_000), "it lasts 6.0 s")
    noise = torch.randn(16_000, generator=torch.Generator())
    say(page, 0.1 * noise, "Longer than most digits")


def test_without_a_microphone_it_says_so(page):
    for error, sentence in (
        ("NotAllowedError", "was not allowed. Allow it"),
        ("NotFoundError", "No microphone is found. Plug one in"),
    ):
        refuse = f"() => Promise.reject(new DOMException('', '{error}'))"
        page.evaluate(f"void (navigator.mediaDevices.getUserMedia = {refuse})")
        page.click("#record")
        answers(page, sentence)
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: null })")
    page.click("#record")
    answers(page, "gives no microphone")


def test_it_listens(browser, write, recordings, tmp_path):
    said = in_a_quiet_room(recordings[7, "theo", 2])
    write_sound(tmp_path / "microphone.wav", said)
    chromium = browser.browser_type.launch(
        executable_path=find_chromium(browser.browser_type),
        args=[
            "--no-sandbox",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={tmp_path / 'microphone.wav'}",
        ],
    )
    page = chromium.new_page()
    page.goto(write().as_uri())
    page.click("#record")
    answers(page, "it uses")
    assert page.inner_text("#prediction").startswith("7 (")
    chromium.close()


def test_words_are_kept_saved_opened_and_taught(
    page, visit, write, say, recordings, sets, tmp_path
):
    page.click("#guide")
    images = []
    for digit in range(3):
        answers(page, f"Record, and say: {digit}")
        say(page, in_a_quiet_room(recordings[digit, "lucas", 3]))
        images.append(page.evaluate("image.flat()"))
        page.click("#accept")
    page.click("#guide")
    page.click("#cells button >> nth=1")
    page.click("#label >> text=1")
    page.click("#teach")
    assert "1 now gets" in page.inner_text("#told")
    page.click("#teach-all")
    answers(page, "Of 3 kept ones", "#shelf")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "my_voice.wav"
    path = tmp_path / "my_voice.wav"
    download.value.save_as(path)
    read, labels, _ = read_own_examples(str(path), sets["spoken"][0])
    assert labels.tolist() == [0, 1, 2]
    for ours, theirs in zip(images, read, strict=True):
        assert gap(ours, theirs) <= 1

    page = visit(write())
    for added in (3, 0):
        page.set_input_files("#open", path)
        answers(page, f"{added} opened. 3 kept", "#shelf")


def test_voices_have_names_and_kept_words_a_digit(
    visit, write, say, recordings, sets, monkeypatch
):
    page = visit(write("speakers"))
    assert page.locator("#digits button").count() == 6
    said = in_a_quiet_room(recordings[7, "theo", 2])
    say(page, said)
    assert len(page.evaluate("result.logits")) == 10
    assert page.inner_text("#prediction").split()[0] in sets["speakers"][1].classes
    page.click("#keep")
    assert "which digit" in page.inner_text("#told")
    page.select_option("#said", "7")
    page.click("#keep")
    assert "1 kept" in page.inner_text("#shelf")
    page.click("#teach-all")
    assert 'No voice is called "you"' in page.inner_text("#shelf")
    assert page.evaluate(FAULTS) == []

    # After training with --own, it is: what is kept teaches your voice.
    test_set = sets["speakers"][1]
    monkeypatch.setattr(test_set, "classes", [*test_set.classes, "you"])
    page = visit(write("speakers"))
    say(page, said)
    page.select_option("#said", "7")
    page.click("#keep")
    for _ in range(4):  # two suffice, mostly: which old examples come with it is chance
        page.click("#teach-all")
        playwright.expect(page.locator("#progress")).to_be_hidden()
    assert page.inner_text("#prediction").startswith("you (")
    assert "now 1" in page.inner_text("#shelf")


def test_it_is_small_and_names_its_authors(write):
    page = write("new-voices")
    assert page.stat().st_size < 1e6
    text = page.read_text(encoding="utf-8")
    assert "Zohar Jackson and the speakers (CC BY-SA 4.0)" in text
    assert "default-src 'none'" in text and "@@" not in text
