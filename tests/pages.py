"""Read the fenced blocks of a page of docs/, and run its commands."""

import re
import runpy
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [
    path.relative_to(ROOT)
    for path in (ROOT / 'configs').iterdir()
    if path.is_dir()
]
# In a list, a block is indented.
_FENCE = re.compile(r'^ *```(\w+)\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r'^## (.*)$', re.MULTILINE)


def leave_layout_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log and print configs as they come.

    To lay them out well would take half of the time of a short training.
    """
    monkeypatch.setattr(
        'yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True)
    )


class Clone:
    """A folder like a clone, where the commands of a page run.

    Args:
        root: An empty folder.
        monkeypatch: Of the test.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        (root / 'configs').mkdir()
        for part in ('tools', *map(str, FOLDERS)):
            (root / part).symlink_to(ROOT / part)
        monkeypatch.chdir(root)
        for name in ('COCO_ROOT', 'VOC_ROOT', 'ADE_ROOT', 'FGVC_ROOT'):
            monkeypatch.delenv(name, raising=False)
        leave_layout_out(monkeypatch)

    def run(self, words: list[str], options: Iterable[str] = ()) -> None:
        """Run a command of a page in this process.

        Args:
            words: The command; it starts with ``python``.
            options: More of ``--cfg-options``.
        """
        assert words[0] == 'python'
        words = words[1:]
        if options and '--cfg-options' not in words:
            words = [*words, '--cfg-options']
        self._patch.setattr(sys, 'argv', [*words, *options])
        runpy.run_path(words[0], run_name='__main__')


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


def blocks(page: str) -> list[Block]:
    """Return all blocks of a page."""
    return [block for part in sections(page).values() for block in part]


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
