"""Which torch the set-up installs, with a stand-in for nvidia-smi."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'tools' / 'environment' / 'choose_torch.py'
DEFAULT = 'torch==2.11.0 torchvision==0.26.0'
OLDER = (
    'torch==2.11.0+cu126 torchvision==0.26.0+cu126 '
    '--extra-index-url=https://download.pytorch.org/whl/cu126'
)


def run(folder, smi=None, **environment):
    """Run the script; ``smi`` is what answers for nvidia-smi."""
    if smi is not None:
        path = folder / 'nvidia-smi'
        path.write_text(f'#!/bin/sh\n{smi}\n')
        path.chmod(0o755)
    return subprocess.run(
        [sys.executable, SCRIPT, '2.11.0', '0.26.0'],
        env=dict(PATH=f'{folder}:/usr/bin:/bin', **environment),
        capture_output=True,
        text=True,
    )


def cards(*capabilities, driver='580.65.06'):
    """A machine with such cards."""
    caps, drivers = (
        '\\n'.join(lines)
        for lines in (capabilities, [driver] * len(capabilities))
    )
    return f"""case "$1" in
        *compute_cap) printf '{caps}\\n' ;;
        *driver_version) printf '{drivers}\\n' ;;
    esac"""


@pytest.mark.parametrize(
    ('smi', 'wanted'),
    [
        (cards('8.0'), DEFAULT),
        (cards('7.5', '12.0'), DEFAULT),
        (cards(*['7.0'] * 8), OLDER),  # V100
        (cards('6.0', '8.6'), OLDER),  # P100 beside an RTX 3090
        (cards('8.0', driver='535.104.05'), OLDER),
        (cards('9.0', driver='550.54'), OLDER),
        # No cards, or no answer.
        ('echo No devices were found', DEFAULT),
        ('exit 9', DEFAULT),
        (None, DEFAULT),
    ],
)
def test_the_build_that_has_kernels_for_all_cards(smi, wanted, tmp_path):
    done = run(tmp_path, smi)
    assert done.returncode == 0, done.stderr
    assert ' '.join(done.stdout.split()) == wanted


@pytest.mark.parametrize(
    ('smi', 'sentence'),
    [
        (cards('7.0', '12.0'), 'capabilities [7.0, 12.0]'),
        (cards('7.0', driver='470.82'), 'driver 470'),
        (cards('3.7'), 'capabilities [3.7]'),
    ],
)
def test_no_build_is_a_sentence(smi, sentence, tmp_path):
    done = run(tmp_path, smi)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert 'CUDA 12.6: 5.0 to 9.0, driver 525 or newer' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('named', ['7.0', ' 7.0, 8.0 ', '7.0;9'])
def test_cards_of_another_machine_are_named(named, tmp_path):
    """The driver here says nothing about the driver there."""
    smi = cards('12.0', driver='400.1')
    done = run(tmp_path, smi, COMPUTE_CAP=named)
    assert ' '.join(done.stdout.split()) == OLDER
    done = run(tmp_path, COMPUTE_CAP='V100')
    assert done.returncode == 1
    assert 'COMPUTE_CAP=V100 is no list of numbers' in done.stderr
