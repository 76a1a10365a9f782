"""Records of measurements, and the documents that quote them.

A measuring tool writes what it found, and on which machine, into a JSON file.
A document says where a number comes from in comments around it:

    <!-- NAME: E3VA | saved_bytes | .3f | FULL -->0.149<!-- / -->
    <!-- NAME: table | FULL; FIXED; E3VA --> ... <!-- / -->
    <!-- NAME: machine --> ... <!-- / -->
    <!-- NAME: saved --> ... <!-- / -->
    <!-- NAME: plans --> ... <!-- / -->

NAME is a file of ``docs/benchmarks``. The first is the value of a method in a
format, as a ratio if another method is named; the second a table with these
rows, the third a sentence, the last two the tables of measure_saved.py and of
verify_plans.py.
"""

import json
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

_FIGURE = re.compile(r'(<!-- ([\w-]+): ([^>]*?) -->)(.*?)(<!-- / -->)', re.S)


def machine() -> dict[str, Any]:
    """Return what is known of this machine."""
    return dict(
        cpu=_cpu(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else None,
        system=platform.system(),
        torch=torch.__version__,
    )


def write(
    path: str | Path,
    rows: list[dict],
    settings: dict[str, Any],
    note: str = '',
) -> None:
    """Write a record.

    Args:
        path: A JSON file.
        rows: One for each method, with its name as ``method``.
        settings: What was measured.
        note: What a reader has to know of the circumstances.
    """
    tool = Path(sys.argv[0])
    threads = os.environ.get('OMP_NUM_THREADS')
    words = ['python', f'{tool.parent.name}/{tool.name}', *sys.argv[1:]]
    if tool.parent.name == 'analysis_tools':
        words[1] = f'tools/{words[1]}'
    command = shlex.join(words)
    if threads:
        command = f'OMP_NUM_THREADS={threads} {command}'
    record = dict(
        command=command,
        date=date.today().isoformat(),
        machine=machine(),
        settings=settings,
        note=note,
        rows=rows,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + '\n')


def render(text: str, folder: str | Path) -> str:
    """Return a document with its figures from the records in a folder.

    Raises:
        KeyError: If a record has no such method or value.
        FileNotFoundError: If there is no such record.
    """

    def anew(match: re.Match) -> str:
        start, name, asked, _, end = match.groups()
        record = json.loads((Path(folder) / f'{name}.json').read_text())
        kind, *rest = [word.strip() for word in asked.split('|')]
        make = _KINDS.get(kind, _number)
        words = rest if kind in _KINDS else (kind, *rest)
        return f'{start}{make(record, *words)}{end}'

    return _FIGURE.sub(anew, text)


def figures(text: str) -> int:
    """Return how many figures of a document come from records."""
    return len(_FIGURE.findall(text))


def _rows(record: dict) -> dict[str, dict]:
    return {row['method']: row for row in record['rows']}


def _value(row: dict, name: str) -> float:
    value = row[name]
    return statistics.median(value) if isinstance(value, list) else value


def _number(
    record: dict, method: str, name: str, style: str, base: str | None = None
) -> str:
    rows = _rows(record)
    value = _value(rows[method], name)
    if base is not None:
        value /= _value(rows[base], name)
    return format(value, style)


def _machine(record: dict) -> str:
    of = record['machine']
    unit = 'thread' if of['threads'] == 1 else 'threads'
    where = of['gpu'] or f'{of["threads"]} {unit} of {_article(of["cpu"])}'
    return f'{where}, PyTorch {of["torch"]}, {record["date"]}'


def _table(record: dict, methods: str) -> str:
    """Return a table of what methods cost, beside FULL where it is there."""
    rows = _rows(record)
    full = rows.get('FULL')
    lines = [
        '| method | trainable | kept for backward | of FULL '
        '| processor seconds | quartiles | of FULL |',
        '|---|---:|---:|---:|---:|---:|---:|',
    ]
    for method in (word.strip() for word in methods.split(';')):
        row = rows[method]
        saved, seconds = row['saved_bytes'], _value(row, 'cpu')
        low, _, high = (
            statistics.quantiles(row['cpu'], method='inclusive')
            if len(row['cpu']) > 1
            else [seconds] * 3
        )
        of = ['', '']
        if full is not None:
            of = [
                f'{saved / full["saved_bytes"]:.3f}',
                f'{seconds / _value(full, "cpu"):.2f}',
            ]
        lines.append(
            f'| {method} | {row["trainable"]:,} | {saved / 2**20:.1f} MiB '
            f'| {of[0]} | {seconds:.2f} | {low:.2f} to {high:.2f} | {of[1]} |'
        )
    return '\n' + '\n'.join(lines) + '\n'


def saved_table(record: dict) -> str:
    """Return what saving in fewer bits changes, of measure_saved.py."""
    lines = [
        '| model | saved | kept for backward | of exact | of FULL, exact '
        '| gradients off by | seconds, of exact |',
        '|---|---|---:|---:|---:|---:|---:|',
    ]
    for row in record['rows']:
        full = f'{row["of_full"]:.3f}' if row['of_full'] else ''
        lines.append(
            f'| {row["model"]} | {row["saved"]} '
            f'| {row["bytes"] / 2**20:.1f} MiB | {row["of_exact"]:.2f} '
            f'| {full} | {row["error"]:.1e} | {row["slower"]:.2f} |'
        )
    return '\n' + '\n'.join(lines) + '\n'


def plans_table(record: dict) -> str:
    """Return planned and real peaks, of verify_plans.py."""
    lines = [
        '| model | images | pixels | planned | measured | error |',
        '|---|---:|---:|---:|---:|---:|',
    ]
    for row in record['rows']:
        width, height = row['scale']
        planned, measured = row['planned'], row['measured']
        lines.append(
            f'| {row["model"]} | {row["batch"]} | {width} x {height} '
            f'| {planned / 2**20:,.1f} MiB | {measured / 2**20:,.1f} MiB '
            f'| {100 * (planned / measured - 1):+.1f} % |'
        )
    return '\n' + '\n'.join(lines) + '\n'


_KINDS: dict[str, Callable[..., str]] = {
    'plans': plans_table,
    'table': _table,
    'machine': _machine,
    'saved': saved_table,
}


def _article(name: str) -> str:
    return ('an ' if name[:1] in 'AEIO' else 'a ') + name


def _cpu() -> str:
    """Return the name of the processor, with the widest vectors it has."""
    info = Path('/proc/cpuinfo')
    if not info.exists():
        return platform.processor() or platform.machine()
    text = info.read_text()
    found = re.search(r'^model name\s*: (.*)$', text, re.M)
    name = found[1] if found else platform.machine()
    for flag, vectors in (('avx512f', 'AVX-512'), ('avx2', 'AVX2')):
        if re.search(rf'\b{flag}\b', text):
            return f'{name} with {vectors}'
    return name
