"""What is said of versions and cards when mmlowrank is imported."""

import ctypes
from importlib import metadata

import pytest
import torch

from mmlowrank import compat

DEFAULT = [
    'sm_75',
    'sm_80',
    'sm_86',
    'sm_90',
    'sm_100',
    'sm_120',
    'compute_120',
]
CUDA_12_6 = ['sm_50', 'sm_60', 'sm_70', 'sm_75', 'sm_80', 'sm_86', 'sm_90']


def test_versions_are_warned_about_never_refused(monkeypatch):
    installed = {
        'torch': '2.3.1',
        'mmcv': '2.1.0',
        'onedl-mmcv': '2.3.6',
        'mmengine': '0.10.4',
    }

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError
        return installed[name]

    monkeypatch.setattr(metadata, 'version', version)
    first, second = compat.version_problems()
    assert 'torch 2.3.1 is older than 2.4' in first
    assert 'pip uninstall -y mmcv onedl-mmcv' in second
    with pytest.warns(UserWarning, match='older than'):
        compat.warn_about_environment()


class Nvml:
    """Stands in for libnvidia-ml."""

    def __init__(self, *cards):
        self.cards = cards

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = len(self.cards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, card):
        card._obj.value = index + 1
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, card, *out):
        capability = self.cards[card.value - 1]
        for number, value in zip(out, capability or (0, 0), strict=True):
            number._obj.value = value
        return 0 if capability else 999


@pytest.fixture
def machine(monkeypatch):
    """Sets the cards, and what torch is built for."""

    def make(cards, built_for, visible=None):
        monkeypatch.setattr(ctypes, 'CDLL', lambda name: Nvml(*cards))
        monkeypatch.setattr(torch.cuda, 'get_arch_list', lambda: built_for)
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        if visible is not None:
            monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)

    return make


@pytest.mark.parametrize(
    ('cards', 'built_for'),
    [
        ([(8, 0), (8, 6), (8, 9), (9, 0), (12, 1)], DEFAULT),
        ([(7, 0), (6, 1), (8, 9)], CUDA_12_6),
        ([(13, 0)], DEFAULT),  # by its PTX
        ([(9, 0)], ['sm_90a']),
        ([None], DEFAULT),  # a card that does not answer
        ([(7, 0)], []),  # torch for CPUs
    ],
)
def test_a_card_with_kernels_is_no_problem(machine, cards, built_for):
    machine(cards, built_for)
    assert compat.card_problems() == []


def test_a_card_without_kernels_is_one_line(machine):
    machine([(7, 0)] * 8, DEFAULT)
    (line,) = compat.card_problems()
    assert '(compute capability 7.0; it has sm_75 ' in line
    assert 'as tools/setup_env.sh does' in line
    assert '\n' not in line
    with pytest.warns(UserWarning, match='has no kernels for a card'):
        compat.warn_about_environment()
    machine([(10, 0)], CUDA_12_6)
    (line,) = compat.card_problems()
    assert 'capability 10.0' in line


def test_only_cards_that_may_be_used_count(machine):
    machine([(8, 0), (7, 0)], DEFAULT, visible='0')
    assert compat.card_problems() == []
    machine([(8, 0), (7, 0)], DEFAULT, visible='0,1')
    assert len(compat.card_problems()) == 1
    machine([(8, 0), (7, 0)], DEFAULT, visible='GPU-8932f937')
    assert len(compat.card_problems()) == 1


def test_without_nvml_nothing_is_known(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, 'CDLL', absent)
    monkeypatch.setattr(torch.cuda, 'get_arch_list', lambda: DEFAULT)
    assert compat.card_problems() == []
