"""Who may import whom: the table of CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmlowrank'
ROOMS = sorted(path.parent.name for path in PACKAGE.glob('*/__init__.py'))


def allowed(room: str) -> set[str]:
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    (cell,) = re.findall(rf'^\| `mmlowrank/{room}` \|.*\|(.*)\|$', text, re.M)
    everybody = {'config_packages', 'registry', 'version'}
    return {room, *everybody, *re.findall(r'`(\w+)`', cell)}


def imported(path: Path) -> Iterator[str]:
    """Yield full names, relative ones with the package in front."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = len(package) + 1 - node.level if node.level else 0
            module = (node.module,) if node.module else ()
            base = (*package[:above], *module)
            yield from ('.'.join((*base, alias.name)) for alias in node.names)


@pytest.mark.parametrize('room', ROOMS)
def test_rooms_import_what_they_may(room):
    may = allowed(room)
    for path in (PACKAGE / room).rglob('*.py'):
        for name in imported(path):
            first, *rest = name.split('.')
            if first == 'mmlowrank':
                assert rest[0] in may, (path, name)
            elif room == 'nn':
                assert not first.startswith('mm'), (path, name)
            elif first == 'mmdet':
                assert 'adamixer' in path.parts, (path, name)
