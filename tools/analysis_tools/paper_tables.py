"""Write what is made of configs/paper_tables.yml and the configs.

python tools/analysis_tools/paper_tables.py [--check]

configs/README.md, configs/*/metafile.yml and the tables between the markers
of configs/rlrr/README.md. With --check it writes nothing, and fails if a file
is not what it would write.
"""

import argparse
import difflib
import re
import sys
from pathlib import Path

from mmlowrank.analysis import paper_tables, rlrr_tables

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
FOLDERS = (
    *('baselines', 'colin', 'dinov2', 'e3va', 'lorand', 'lors', 'mona'),
    'rlrr',
)
MARK = '<!-- made by tools/analysis_tools/paper_tables.py: {} -->'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--check', action='store_true', help='compare instead of write'
    )
    return parser.parse_args()


def filled(path: Path, tables: dict[str, str]) -> str:
    """Return a document with new text between its markers."""
    text = path.read_text()
    for name, table in tables.items():
        begin, end = MARK.format(name), MARK.format('end')
        pattern = f'{re.escape(begin)}.*?{re.escape(end)}'
        new = f'{begin}\n\n{table}\n\n{end}'
        text, found = re.subn(pattern, lambda _: new, text, flags=re.DOTALL)  # noqa: B023
        if found != 1:
            sys.exit(f'{path} has {found} places "{begin}"')
    return text


def made(folder: str) -> dict[Path, str]:
    """Return path -> text of what is made for a folder, or the overview.

    Args:
        folder: One of :data:`FOLDERS`, or ``''`` for configs/README.md.
    """
    if not folder:
        path = CONFIGS / 'README.md'
        table = paper_tables.coverage(CONFIGS)
        return {path: filled(path, {'coverage': table})}
    texts = {
        CONFIGS / folder / 'metafile.yml': paper_tables.metafile(
            CONFIGS, folder
        )
    }
    if folder == 'rlrr':
        tables = {
            name: rlrr_tables.methods(CONFIGS, name)
            for name in rlrr_tables.METHODS
        }
        tables['settings'] = rlrr_tables.settings(CONFIGS)
        path = CONFIGS / 'rlrr/README.md'
        texts[path] = filled(path, tables)
    return texts


def main() -> None:
    """Write, or compare."""
    check = parse_args().check
    stale = False
    for folder in ('', *FOLDERS):
        for path, text in made(folder).items():
            old = path.read_text() if path.is_file() else ''
            if old == text:
                continue
            stale = True
            name = path.relative_to(CONFIGS.parent)
            if not check:
                path.write_text(text)
                print(f'{name} written')
                continue
            lines = difflib.unified_diff(
                old.splitlines(), text.splitlines(), str(name), 'new', n=0
            )
            print('\n'.join(list(lines)[:12]))
    if check and stale:
        sys.exit('run tools/analysis_tools/paper_tables.py to renew them')


if __name__ == '__main__':
    main()
