"""The page that lesson 4 writes for a network that hears, in a real browser."""

import re
import shutil
import wave

import numpy as np
import pytest
import torch

import dl_utils
from backstage.data.datasets import load_recordings
from backstage.own.examples import read_own_examples
from backstage.page.writer import write_network_page
from backstage.sound import resample, to_image, trim_silence
from conftest import FSDD_ARCHIVE, REAL_DATA_DIR, find_chromium, load_script
from test_network_page import FAULTS, playwright

pytestmark = pytest.mark.skipif(
    not (REAL_DATA_DIR / "FSDD" / FSDD_ARCHIVE).exists(), reason="no recordings"
)


@pytest.fixture(scope="session")
def sets():
    """The training and test set of each kind, as the loaders hold them."""
    return {
        name: [
            loader.dataset
            for loader in dl_utils.load_mnist_data(dataset=name)[::2]  # no validation
        ]
        for name in ("spoken", "speakers", "new-voices")
    }


@pytest.fixture(scope="session")
def networks(sets):
    """A network of each kind that was trained for a few seconds."""
    return {name: train(*sets[name]) for name in ("spoken", "speakers")}


def train(train_set, _):
    torch.manual_seed(0)
    model = load_script("04_load_model.py").SimpleNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    images, labels = train_set.tensors
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def write(sets, networks, tmp_path):
    def write(name="spoken", model=None):
        model = model or networks[name]
        path = tmp_path / f"{name}.html"
        write_network_page(path, model, (model.fc1, model.fc2), *sets[name])
        return path

    return write


@pytest.fixture(scope="session")
def recordings():
    return {(r.digit, r.voice, r.index): r.samples for r in load_recordings()}


def save_wav(path, samples, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        numbers = (np.asarray(samples) * 2**15).round().clip(-(2**15), 2**15 - 1)
        file.writeframes(numbers.astype("<i2").tobytes())
    return path


def in_a_quiet_room(word, seconds=2.0):
    """Return a recording that begins with 0.3 s of silence, then a word."""
    samples = 0.0003 * torch.randn(int(8000 * seconds), generator=torch.Generator())
    samples[2400 : 2400 + len(word)] += word
    return samples


def gap(ours, image):
    return (torch.tensor(ours) - image.flatten().int()).abs().max()


def listening(page, text):
    playwright.expect(page.locator("#listening")).to_contain_text(text)


def test_images_are_those_of_pytorch(visit, write, recordings):
    page = visit(write())
    proof = page.inner_text("#proof")
    assert re.search(r"images of recordings differ by at most [01] of 255", proof)
    say = "a => network.image(...a)"
    for word in list(recordings.values())[::300]:
        assert gap(page.evaluate(say, [word.tolist(), 8000]), to_image(word)) <= 1
    # 5,500 Hz must not come back as 2,500 Hz.
    for rate, hertz in (
        (16_000, 3_900),
        (44_100, 300),
        (44_100, 5_500),
        (48_000, 5_500),
    ):
        seconds = torch.arange(rate) / rate
        tone = 0.05 * torch.sin(2 * torch.pi * 700 * seconds)
        tone += 0.5 * torch.sin(2 * torch.pi * hertz * seconds)
        ours = page.evaluate(say, [tone.tolist(), rate])
        assert gap(ours, to_image(resample(tone, rate))) <= 1, (rate, hertz)


def test_it_hears_what_python_trims(visit, write, recordings):
    page = visit(write())
    for word in list(recordings.values())[::300]:
        said = in_a_quiet_room(word, 2.7)
        ours = page.evaluate("a => network.heard(a, 8000)", said.tolist())
        assert gap(ours, to_image(trim_silence(said))) <= 1


def test_a_file_is_opened_and_shown(visit, write, recordings, tmp_path, networks):
    page = visit(write())
    said = in_a_quiet_room(recordings[7, "theo", 2])
    page.set_input_files("#open-sound", save_wav(tmp_path / "seven.wav", said))
    spoken = trim_silence(said)
    listening(page, f"Of 2.00 s it uses {len(spoken) / 8000:.2f} s.")
    image = dl_utils.normalize(to_image(spoken)[None])
    with torch.inference_mode():
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


def test_what_is_no_word_gets_one_sentence(visit, write, tmp_path):
    page = visit(write())
    (tmp_path / "text.mp3").write_text("no sound")
    (tmp_path / "large.wav").write_bytes(bytes(5_000_000))
    noise = 0.1 * torch.randn(16_000, generator=torch.Generator())
    click = torch.zeros(16_000)
    click[8000:8050] = 0.5
    for path, sentence in (
        (tmp_path / "text.mp3", "text.mp3 is not opened: it holds no sound"),
        (tmp_path / "large.wav", "too large"),
        (save_wav(tmp_path / "long.wav", torch.rand(48_000)), "it lasts 6.0 s"),
        (save_wav(tmp_path / "silent.wav", torch.zeros(16_000)), "but silence"),
        (save_wav(tmp_path / "noise.wav", noise), "Longer than most digits"),
        (save_wav(tmp_path / "click.wav", click), "too short"),
    ):
        page.set_input_files("#open-sound", path)
        listening(page, sentence)


def test_without_a_microphone_it_says_so(visit, write):
    page = visit(write())
    for name, sentence in (
        ("NotAllowedError", "was not allowed. Allow it"),
        ("NotFoundError", "No microphone is found. Plug one in"),
        ("", "gives no microphone"),
    ):
        page.evaluate(
            """name => Object.defineProperty(navigator, "mediaDevices", {
                configurable: true,
                value: name ? { getUserMedia: () =>
                    Promise.reject(new DOMException("", name)) } : undefined })""",
            name,
        )
        page.click("#record")
        listening(page, sentence)


def test_it_listens(browser, write, recordings, tmp_path):
    said = in_a_quiet_room(recordings[7, "theo", 2])
    numbers = np.interp(np.arange(96_000) / 6, np.arange(16_000), said)
    microphone = save_wav(tmp_path / "microphone.wav", numbers, 48_000)
    chromium = browser.browser_type.launch(
        executable_path=find_chromium(browser.browser_type),
        args=[
            "--no-sandbox",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={microphone}",
        ],
    )
    page = chromium.new_page()
    page.goto(write().as_uri())
    page.click("#record")
    listening(page, "it uses")
    assert page.inner_text("#prediction").startswith("7 (")
    chromium.close()


def test_words_are_kept_saved_opened_and_taught(
    visit, write, recordings, sets, tmp_path
):
    page = visit(write())
    page.click("#guide")
    images = []
    for digit in range(3):
        listening(page, f"Record, and say: {digit}")
        said = in_a_quiet_room(recordings[digit, "lucas", 3])
        page.set_input_files("#open-sound", save_wav(tmp_path / "said.wav", said))
        listening(page, "it uses")
        images.append(page.evaluate("image.flat()"))
        page.click("#accept")
    page.click("#guide")
    page.click("#cells button >> nth=1")
    page.click("#label >> text=1")
    page.click("#teach")
    assert "1 now gets" in page.inner_text("#told")
    page.click("#teach-all")
    shelf = playwright.expect(page.locator("#shelf"))
    shelf.to_contain_text("Of 3 kept ones")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "my_voice.wav"
    path = tmp_path / "my_voice.wav"
    shutil.copy(download.value.path(), path)
    read, labels, _ = read_own_examples(str(path), sets["spoken"][0])
    assert labels.tolist() == [0, 1, 2]
    for ours, theirs in zip(images, read, strict=True):
        assert gap(ours, theirs) <= 1

    page = visit(write())
    for added in (3, 0):
        page.set_input_files("#open", path)
        playwright.expect(page.locator("#shelf")).to_contain_text(
            f"{added} opened. 3 kept"
        )


def test_voices_have_names_and_kept_words_a_digit(
    visit, write, recordings, sets, tmp_path, monkeypatch
):
    page = visit(write("speakers"))
    assert page.locator("#digits button").count() == 6
    said = in_a_quiet_room(recordings[7, "theo", 2])
    page.set_input_files("#open-sound", save_wav(tmp_path / "seven.wav", said))
    listening(page, "it uses")
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
    page.set_input_files("#open-sound", tmp_path / "seven.wav")
    listening(page, "it uses")
    page.select_option("#said", "7")
    page.click("#keep")
    for _ in range(4):  # two suffice, mostly: which old examples come with it is chance
        page.click("#teach-all")
        playwright.expect(page.locator("#progress")).to_be_hidden()
    assert page.inner_text("#prediction").startswith("you (")
    assert "now 1" in page.inner_text("#shelf")


def test_it_is_small_and_names_its_authors(write, networks):
    page = write("new-voices", networks["spoken"])
    assert page.stat().st_size < 1e6
    text = page.read_text(encoding="utf-8")
    assert "Zohar Jackson and the speakers (CC BY-SA 4.0)" in text
    assert "default-src 'none'" in text and "@@" not in text
