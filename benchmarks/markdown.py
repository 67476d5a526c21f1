"""Tables in Markdown, and where they stand in a document."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

NONE = "–"


def row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def between(text: str, name: str) -> tuple[str, str, str]:
    """What a document has before, in and after the table of a name, which stands between two marks."""
    begin, end = f"<!-- {name} table: begin -->", f"<!-- {name} table: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"report: the line {begin} has to be there once, and the line {end} once after it")
    before, rest = text.split(begin)
    table, after = rest.split(end)
    return before + begin, table.strip(), end + after


def put(file: Path | None, **tables: Callable[[], str]) -> int:
    """Print tables, or put each between its marks in a file, and return the exit code."""
    try:
        made = {name: table() for name, table in tables.items()}
        if file is None:
            print("\n\n".join(made.values()))
        else:
            text = file.read_text(encoding="utf-8")
            for name, table in made.items():
                before, _, after = between(text, name)
                text = f"{before}\n{table}\n{after}"
            file.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as e:
        print(e, file=sys.stderr)
        return 1
    return 0
