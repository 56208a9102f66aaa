"""Adapt GitHub's Markdown to Python-Markdown: lists need an empty line before them, and four spaces a level."""

from __future__ import annotations

import re

_ITEM = re.compile(r"( *)(?:[-*]|\d+\.) +(?=\S)")
_FENCE = re.compile(r" *(```+|~~~+)")
_STEP = 4


def adapted(text: str) -> str:
    """The same page with lists written so that Python-Markdown reads them as GitHub does."""
    made: list[str] = []
    columns: list[int] = []  # at which the text of each open list item begins
    fence = ""
    for line in text.split("\n"):
        mark, item = _FENCE.match(line), None if fence else _ITEM.match(line)
        column = len(line) - len(line.lstrip())
        after_blank = not made or not made[-1].strip()
        in_list = bool(columns)
        if line.strip() and not fence and (item or mark or after_blank or line.startswith("#")):
            while columns and column < columns[-1]:
                columns.pop()
        if item and not in_list and not after_blank:
            made.append("")
        beyond = column if item else min(column, columns[-1] if columns else 0)
        made.append((" " * _STEP * len(columns) + line[beyond:]).rstrip())
        if item:
            columns.append(item.end())
        elif mark:
            fence = "" if fence == mark[1] else fence or mark[1]
    return "\n".join(made)
