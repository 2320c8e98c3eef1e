"""The three documents, and how the tests take them apart."""

import re
import shlex

from conftest import ROOT

DOCUMENTS = ["README.md", "LEARNING_GUIDE.md", "ML_CONCEPTS_EXPLAINED.md"]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
GUIDE, CONCEPTS = TEXTS["LEARNING_GUIDE.md"], TEXTS["ML_CONCEPTS_EXPLAINED.md"]


def without_code(text):
    """Return a document without its fenced blocks, whose # and [] mean other things."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


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


def commands(text):
    """Return the words of every "python 0..." in the bash blocks and in sentences."""
    lines = "\n".join(blocks(text, "bash")).splitlines()
    lines += re.findall(r"`(python 0[^`]*)`", without_code(text))
    # A line may set up the environment first; only its last command counts here.
    found = (line.split("&&")[-1].strip() for line in lines)
    return [shlex.split(line)[1:] for line in found if line.startswith("python 0")]
