"""Bring the documents' links to lines of code up to date: python tests/update_links.py

With names of documents, only those. The label of a link says which line is meant: see
lines_meant in documents.py.
"""

import sys

from documents import DOCUMENTS, ROOT, TEXTS, with_right_line_links


def main() -> None:
    problems = []
    for name in sys.argv[1:] or DOCUMENTS:
        text = TEXTS[name]
        new_text, missing = with_right_line_links(text)
        problems += [f"{name}: {problem}" for problem in missing]
        if new_text != text:
            (ROOT / name).write_text(new_text, encoding="utf-8", newline="\n")
            print(f"Saved: {name}")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
