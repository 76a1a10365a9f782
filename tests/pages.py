"""Read the fenced blocks of a page of docs/."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# In a list, a block is indented.
_FENCE = re.compile(r'^ *```(\w+)\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r'^## (.*)$', re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language and its text."""

    language: str
    text: str


def sections(page: str) -> dict[str, list[Block]]:
    """Return heading -> blocks below it; what comes first is under ''."""
    text = (ROOT / 'docs' / page).read_text()
    # A comment in a block is no heading: only '## ' at the start of a line.
    first, *rest = _HEADING.split(text)
    parts = {'': first} | dict(zip(rest[::2], rest[1::2], strict=True))
    return {
        name: [Block(*match) for match in _FENCE.findall(part)]
        for name, part in parts.items()
    }


def commands(blocks: list[Block]) -> list[list[str]]:
    """Return the words of each command in the bash blocks."""
    lines = [
        line
        for block in blocks
        if block.language == 'bash'
        for line in block.text.replace('\\\n', ' ').splitlines()
    ]
    words = [shlex.split(line, comments=True) for line in lines]
    return [each for each in words if each]


def says(said: str, quoted: str) -> bool:
    """Whether a quoted message is that one; ``...`` stands for anything."""
    parts = [re.escape(' '.join(part.split())) for part in quoted.split('...')]
    pattern = r'\s*.*?\s*'.join(parts)
    return bool(re.fullmatch(pattern, ' '.join(said.split())))
