"""The three documents, and how the tests take them apart."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "LEARNING_GUIDE.md", "ML_CONCEPTS_EXPLAINED.md"]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
GUIDE, CONCEPTS = TEXTS["LEARNING_GUIDE.md"], TEXTS["ML_CONCEPTS_EXPLAINED.md"]

LESSON_6 = "Lesson 6 is yours: the loop speaks"

FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
# [label](target), or ![description](target) for a picture; a label may hold [...].
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def without_code(text):
    """Return a document without its fenced blocks, whose # and [] mean other things."""
    return FENCED.sub("", text)


def blocks(text, language):
    """Return the contents of the fenced blocks in one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE
    )


def section(text, heading):
    """Return what stands below a "## " heading."""
    start = text.index(f"\n## {heading}\n")
    end = re.search(r"\n## ", text[start + 4 :])
    return text[start : start + 4 + end.start()] if end else text[start:]


def speaking_blocks():
    """Return the blocks of lesson 6, which joined are 06_speak.py, and the whole."""
    *parts, whole = blocks(section(GUIDE, LESSON_6), "python")
    return parts, whole


def anchors(text):
    """Return the anchors that GitHub makes of the headings."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = sum(re.sub(r"-\d+$", "", earlier) == slug for earlier in found)
        found.append(f"{slug}-{number}" if number else slug)
    return found


def commands(text):
    """Return the words of every "python 0..." in the bash blocks and in sentences."""
    lines = "\n".join(blocks(text, "bash")).splitlines()
    lines += re.findall(r"`(python 0[^`]*)`", without_code(text))
    # A line may set up the environment first; only its last command counts here.
    found = (line.split("&&")[-1].strip() for line in lines)
    return [shlex.split(line)[1:] for line in found if line.startswith("python 0")]


def stated(text, template):
    """Return the figures that a document has in place of {}, once for each mention."""
    pattern = re.escape(template).replace(r"\{\}", r"([\d.]+)").replace(r"\ ", r"\s+")
    found = [list(map(float, match.groups())) for match in re.finditer(pattern, text)]
    assert found, f"the document does not say: {template}"
    return found


def lines_meant(label, source):
    """Return the numbers of the lines that a link with this label may lead to.

    A name means the line that defines it. Other code means a line that begins with it,
    or, if there is none, one that has it somewhere. Nothing means: not in this file.
    """
    code = re.escape(label.strip("`"))
    for pattern in (
        rf"(def |class )?{code}(\(|: | = )",
        rf"\s*(def |class ){code}\b",
        rf"\s*{code}",
        rf".*{code}",
    ):
        found = [
            number
            for number, line in enumerate(source.splitlines(), start=1)
            if re.match(pattern, line)
        ]
        if found:
            return found
    return []


def with_right_line_links(text):
    """Return a document with the right line numbers, and a list of what has no line.

    Where a label means several lines, the one nearest to the old number is taken.
    """
    missing = []

    def corrected(match):
        image, label, target = match.groups()
        path, _, anchor = target.partition("#L")
        if not (path.endswith(".py") and anchor.isdecimal()):
            return match[0]
        file = ROOT / path
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        numbers = lines_meant(label, source)
        if not numbers:
            missing.append(f"{path} has no line with {label}")
            return match[0]
        nearest = min(numbers, key=lambda number: abs(number - int(anchor)))
        return f"{image}[{label}]({path}#L{nearest})"

    parts = FENCED.split(text)  # fenced blocks are the parts with odd numbers
    parts[::2] = [LINK.sub(corrected, part) for part in parts[::2]]
    return "".join(parts), missing
