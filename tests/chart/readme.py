"""The tables of the chart's README, from the comments in values.yaml."""

import json
import re

import yaml

from helm import CHART

BEGIN, END = "<!-- values -->", "<!-- /values -->"


class Section:
    def __init__(self, title):
        self.title, self.text, self.rows = title, [], []


def sections(text):
    """The rows of the file, in order. A key with a comment is a row that includes its children."""
    values = yaml.safe_load(text)
    found, comment, path = [], [], []
    # The indentation of a row whose children are skipped.
    inside = None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("## "):
            (
                found.append(Section(stripped[3:]))
                if not found or found[-1].rows
                else found[-1].text.append(stripped[3:])
            )
            continue
        if stripped == "##":
            found[-1].text.append("")
            continue
        indent = len(line) - len(line.lstrip())
        if inside is not None and stripped and indent > inside:
            continue
        if stripped.startswith("# "):
            comment.append(stripped[2:])
            continue
        key = re.match(r"([A-Za-z0-9]+):(.*)$", stripped)
        if not key:
            assert not stripped, f"values.yaml:{number}: what is this?"
            comment = []
            continue
        path = path[: indent // 2] + [key[1]]
        inside = None
        if comment:
            value = values
            for name in path:
                value = value[name]
            found[-1].rows.append((".".join(path), value, " ".join(comment)))
            comment, inside = [], indent
        else:
            assert not key[2], f"values.yaml:{number}: {'.'.join(path)} has no comment"
    return found


def default(value):
    if value is None or value == "":
        return f"`{json.dumps(value)}`"
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`"


def tables():
    lines = []
    for section in sections((CHART / "values.yaml").read_text()):
        lines += [f"### {section.title}", ""]
        if section.text:
            lines += ["\n".join(section.text).strip(), ""]
        lines += ["| value | default | meaning |", "|---|---|---|"]
        for path, value, comment in section.rows:
            text = comment.replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| `{path}` | {default(value)} | {text} |")
        lines.append("")
    return "\n".join(lines)


def with_tables(readme):
    """The README with current tables."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"
