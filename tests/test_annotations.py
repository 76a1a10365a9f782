"""Annotations that do not hold what the pipeline and the classes need.

What stops a training is tested with the page docs/own_data.md.
"""

from types import SimpleNamespace

import cv2
import made_data
import pytest
from mmseg.datasets import BaseSegDataset
from torch import nn

from mmlowrank.engine.annotations import check_annotations
from mmlowrank.engine.class_names import check_heads


@pytest.fixture
def masks(tmp_path):
    """Masks of 0, 1 and 2; where they are, and how to build the data set."""
    root = made_data.write_ade(tmp_path)

    def build(**kwargs):
        return BaseSegDataset(
            data_root=str(root),
            data_prefix=dict(
                img_path='images/training',
                seg_map_path='annotations/training',
            ),
            pipeline=[dict(type='mmseg.LoadAnnotations')],
            **kwargs,
        )

    return root / 'annotations' / 'training', build


@pytest.mark.parametrize('zero, number', [(False, 3), (True, 2)])
def test_as_many_values_as_classes(zero, number, masks):
    _, build = masks
    for classes in ('abc'[:number], None):
        metainfo = dict(classes=tuple(classes)) if classes else None
        dataset = build(metainfo=metainfo, reduce_zero_label=zero)
        check_annotations(dataset, 'key', train=True)


@pytest.mark.parametrize(
    'zero, number, values', [(False, 2, '0 to 1'), (True, 1, '1 to 1')]
)
def test_a_value_is_named_as_it_is_in_the_file(zero, number, values, masks):
    _, build = masks
    metainfo = dict(classes=tuple('ab'[:number]))
    dataset = build(metainfo=metainfo, reduce_zero_label=zero)
    expected = f'has pixels of 2, .* are {values} with .*={zero}'
    with pytest.raises(ValueError, match=expected):
        check_annotations(dataset, 'key', train=True)


def test_a_test_set_is_warned_about_once(masks, monkeypatch):
    _, build = masks
    said = []
    monkeypatch.setattr(
        'mmlowrank.engine.annotations.print_log',
        lambda text, **_: said.append(text),
    )
    dataset = build(metainfo=dict(classes=('a', 'b')))
    check_annotations(dataset, 'key', train=False)
    assert len(said) == 1 and 'has pixels of 2' in said[0]


@pytest.mark.parametrize('ignored', [255, 7])
def test_ignored_pixels_are_of_no_class(ignored, masks):
    folder, build = masks
    for path in folder.iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        mask[mask == 2] = ignored
        cv2.imwrite(str(path), mask)
    dataset = build(metainfo=dict(classes=('a', 'b')), ignore_index=ignored)
    check_annotations(dataset, 'key', train=True)


def test_a_mask_head_for_each_class():
    classes = dict(classes=('a', 'b'))
    data = SimpleNamespace(metainfo=classes, cat2label={}, cat_ids=[])
    model = nn.Module()
    model.mask_head = nn.Identity()
    model.mask_head.num_classes = 1
    with pytest.raises(ValueError, match=r'model.mask_head has num_classes=1'):
        check_heads(model, data, 'key')
    model.mask_head.class_agnostic = True
    check_heads(model, data, 'key')
