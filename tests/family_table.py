"""Which tuner fits which family: the table of docs/backbones.md.

python tests/family_table.py        writes it anew
"""

import re
from pathlib import Path

from mmlowrank.registry import FAMILIES, TUNERS

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'backbones.md'
PLACE = re.compile(r'(?<=<!-- table -->\n).*?(?=<!-- end of table -->)', re.S)


def table() -> str:
    """Return it as text, from what families and tuners say of themselves."""
    for registry in (FAMILIES, TUNERS):
        registry.import_from_location()
    lines = ['| family | tuners that are not defined there |', '|---|---|']
    rows = {f.title: f.always_lacks() for f in FAMILIES.module_dict.values()}
    for title in sorted(rows, key=str.lower):
        reasons: dict[str, list[str]] = {}
        for name, tuner in sorted(TUNERS.module_dict.items()):
            missing = [p for p in tuner.needs if p in rows[title]]
            if missing:
                reasons.setdefault(rows[title][missing[0]], []).append(name)
        cell = '; '.join(
            f'{", ".join(names)}: {why}' for why, names in reasons.items()
        )
        lines.append(f'| {title} | {cell or "none"} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    PAGE.write_text(PLACE.sub(lambda _: table(), PAGE.read_text()))
