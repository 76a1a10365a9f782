"""Classes of metainfo against those of the files, on built data sets."""

import json
import logging
import pickle
from types import SimpleNamespace
from unittest import mock

import made_data
import pytest
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from mmlowrank.engine import class_names, launch

FILE = ['dog', 'cat', 'cow', 'bird']
COCO = dict(
    type='CocoDataset',
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017'),
)
VOC = dict(
    type='VOCDataset',
    ann_file='VOC2007/ImageSets/Main/trainval.txt',
    data_prefix=dict(sub_data_root='VOC2007/'),
)


def build(root, classes, scope='mmdet', **options):
    init_default_scope(scope)
    options['metainfo'] = dict(classes=classes)
    return DATASETS.build(dict(data_root=str(root), **options))


def check(dataset, train=True):
    class_names.check_classes(dataset, 'train_dataloader', train)


@pytest.fixture
def coco(tmp_path):
    return made_data.write_coco(tmp_path, FILE, images=4)


@pytest.mark.parametrize(
    'classes',
    [
        ('dog', 'cat', 'cow', 'bird'),
        ('dog', 'cow'),  # a subset
        ('bird',),
    ],
)
def test_classes_in_the_order_of_the_file_pass(coco, classes):
    check(build(coco, classes, **COCO))


@pytest.mark.parametrize(
    'classes, fault',
    [
        # A misspelt one shifts the later ones; the last one is just lost.
        (('dog', 'kat', 'cow', 'bird'), "no 'kat'.*'cow' as 'kat'"),
        (('dog', 'cat', 'cow', 'birds'), "no 'birds'"),
        (('dog', 'cat', 'cow', 'bird', 'emu'), "no 'emu'"),
        (('cat', 'dog', 'cow', 'bird'), "'dog' as 'cat'.*'cat' as 'dog'"),
        (('cow', 'dog'), "'dog' as 'cow'"),
        (('person', 'car'), "no 'person', 'car'"),
    ],
)
@pytest.mark.parametrize('test_mode', [False, True])
def test_other_classes_are_refused(coco, classes, fault, test_mode):
    dataset = build(coco, classes, test_mode=test_mode, **COCO)
    with pytest.raises(ValueError, match=fault) as caught:
        check(dataset, train=not test_mode)
    text = str(caught.value)
    assert str(classes) in text
    assert str(tuple(FILE)) in text


def test_the_sentence_tells_what_mmdet_would_do(coco):
    """The labels in the error are those that objects really have."""
    dataset = build(coco, ('dog', 'kat', 'cow', 'bird'), **COCO)
    names = {i + 1: name for i, name in enumerate(FILE)}
    assert {names[k]: v for k, v in dataset.cat2label.items()} == {
        'dog': 0,
        'cow': 1,
        'bird': 2,
    }


def test_nested_sets_are_looked_at(coco):
    good = dict(COCO, metainfo=dict(classes=('dog', 'cat')))
    bad = dict(COCO, metainfo=dict(classes=('cat', 'dog')))
    init_default_scope('mmdet')
    nested = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ConcatDataset',
            datasets=[dict(d, data_root=str(coco)) for d in (good, bad)],
        ),
    )
    with pytest.raises(ValueError, match="'dog' as 'cat'"):
        check(DATASETS.build(nested))
    nested['dataset']['datasets'].pop()
    check(DATASETS.build(nested))


def test_two_categories_of_one_name_are_refused(tmp_path):
    root = made_data.write_coco(tmp_path, ['dog', 'dog', 'cat'])
    with pytest.raises(ValueError, match="'dog' as 'cat'"):
        check(build(root, ('dog', 'cat'), **COCO))


def test_a_set_that_labels_in_its_own_way_is_believed(coco):
    """What counts are the labels that it gave, not how mmdet gives them."""
    dataset = build(coco, ('cat', 'dog'), **COCO)
    dataset.cat2label = {1: 1, 2: 0}
    check(dataset)
    # LVIS numbers all categories, however metainfo spells their names.
    dataset = build(coco, ('Dog', 'Cat', 'Cow', 'Bird'), **COCO)
    dataset.cat2label = {i + 1: i for i in range(4)}
    check(dataset)


def test_a_single_text_is_refused(coco):
    dataset = build(coco, 'dog', **COCO)
    with pytest.raises(ValueError, match="classes='dog' in metainfo"):
        check(dataset)


@pytest.mark.parametrize('extra', [{}, {'info': {'categories': [1, 2]}}])
@pytest.mark.parametrize('first', [False, True])
def test_categories_are_found_wherever_they_stand(coco, extra, first):
    path = coco / COCO['ann_file']
    content = json.loads(path.read_text())
    content.update(extra)
    if first:
        content = dict(categories=content.pop('categories'), **content)
    # A name like the key, and more than is read at once.
    content['images'][0]['note'] = '"categories": [{"id": 1, "name": "x"}]'
    content['categories'] += [
        dict(id=100 + i, name=f'ünused {i}') for i in range(3000)
    ]
    path.write_text(json.dumps(content, ensure_ascii=False))
    dataset = SimpleNamespace(ann_file=str(path))
    assert class_names._categories(dataset) == [
        (c['id'], c['name']) for c in content['categories']
    ]


def test_the_big_file_is_not_parsed_again(coco, monkeypatch):
    dataset = build(coco, ('dog', 'cat'), **COCO)
    monkeypatch.setattr(json, 'loads', None)
    check(dataset)


def test_two_lists_of_categories_are_told_apart(coco):
    path = coco / COCO['ann_file']
    content = json.loads(path.read_text())
    content['info'] = dict(categories=[dict(id=9, name='no')])
    path.write_text(json.dumps(content))
    check(build(coco, ('dog', 'cat'), **COCO))


def test_files_of_other_kinds_are_left_alone(tmp_path):
    path = tmp_path / 'annotations.pkl'
    path.write_bytes(pickle.dumps([1, 2]))
    check(
        SimpleNamespace(
            ann_file=str(path),
            cat_ids=[1],
            cat2label={1: 0},
            metainfo=dict(classes=('a',)),
        )
    )
    check([1, 2, 3])


def test_xml_sets(tmp_path):
    root = made_data.write_voc(tmp_path)
    check(build(root, ('dog', 'cat'), **VOC))
    check(build(root, ('cat', 'dog'), **VOC))  # labels go by name
    check(build(root, ('cat',), **VOC))
    # No object of it, but none that is left out either.
    check(build(root, ('dog', 'cat', 'emu'), **VOC))
    # Images without a known object leave the set, but not the check.
    for filters in ({}, dict(filter_cfg=dict(filter_empty_gt=True))):
        dataset = build(root, ('dog', 'kat'), **VOC, **filters)
        with pytest.raises(ValueError, match="no object named 'kat'") as e:
            check(dataset)
        assert "('dog', 'kat')" in str(e.value)
        assert "('cat', 'dog')" in str(e.value)
    # A test set may well lack a class.
    with mock.patch.object(class_names, 'print_log') as log:
        check(dataset, train=False)
    assert "no object named 'kat'" in log.call_args.args[0]
    assert log.call_args.kwargs['level'] == logging.WARNING


def test_xml_sets_are_judged_together(tmp_path):
    """One of two cameras may have seen no dog."""
    one = made_data.write_voc(tmp_path / 'one', ('dog', 'pole'))
    two = made_data.write_voc(tmp_path / 'two', ('cat', 'pole'))
    classes = ('dog', 'cat')
    check(ConcatDataset([build(root, classes, **VOC) for root in (one, two)]))
    classes = ('dog', 'kat')
    parts = [build(root, classes, **VOC) for root in (one, two)]
    with pytest.raises(ValueError, match="no object named 'kat'"):
        check(ConcatDataset(parts))


def test_folders_are_numbered_by_the_alphabet(tmp_path):
    for name in ('1', '2', '10'):
        made_data.write_image(tmp_path / name / 'a.jpg')
    options = dict(type='CustomDataset', scope='mmpretrain', data_prefix='')
    check(build(tmp_path, ('1', '10', '2'), **options))
    check(build(tmp_path, ('one', 'ten', 'two'), **options))
    with pytest.raises(ValueError, match=r"'10' as '2'.*'2' as '10'"):
        check(build(tmp_path, ('1', '2', '10'), **options))


def test_nothing_left_is_explained(coco):
    """mmengine fails first where a filter leaves no sample."""
    dataset = dict(
        COCO,
        data_root=str(coco),
        filter_cfg=dict(filter_empty_gt=True),
        metainfo=dict(classes=('person',)),
    )
    init_default_scope('mmdet')

    class Runner:
        cfg = Config(dict(train_dataloader=dict(dataset=dataset)))

        @property
        def train_loop(self):
            return DATASETS.build(self.cfg.train_dataloader.dataset)

    with pytest.raises(ValueError, match="has no 'person'"):
        launch._check_dataset(Runner(), 'train')
    Runner.cfg.train_dataloader.dataset.metainfo.classes = ('dog',)
    Runner.cfg.train_dataloader.dataset.filter_cfg.min_size = 999
    with pytest.raises(ValueError, match='is empty'):
        launch._check_dataset(Runner(), 'train')


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def model(**heads):
    return nn.ModuleDict({k: Head(v) for k, v in heads.items()})


@pytest.mark.parametrize('name', ['bbox_head', 'decode_head', 'head'])
def test_a_head_with_too_few_outputs_is_refused(coco, name):
    dataset, key = build(coco, ('dog', 'cat', 'cow'), **COCO), 'key'
    found = model(**{name: 2, 'rpn_head': 1})
    with pytest.raises(ValueError, match=f'model.{name} has num_classes=2'):
        class_names.check_heads(found, dataset, key)
    stages = nn.ModuleDict({name: nn.ModuleList([Head(3), Head(2)])})
    with pytest.raises(ValueError, match=rf'{name}\.1 has num_classes=2'):
        class_names.check_heads(stages, dataset, key)
    right = dict(rpn_head=1, auxiliary_head=2)
    for outputs in (3, 80):
        found = model(**{name: outputs}, **right)
        class_names.check_heads(found, dataset, key)
    # Words are matched with texts: what is called num_classes is no number
    # of outputs.
    words = model(**{name: 2}, language_model=1)
    class_names.check_heads(words, dataset, key)


def test_labels_of_a_list_file_are_none_of_ours(tmp_path):
    """A part of ImageNet: metainfo has 1,000 names, the file two labels."""
    from mmpretrain.datasets import ImageNet

    (tmp_path / 'two.txt').write_text('a.jpg 0\nb.jpg 1\n')
    dataset = ImageNet(
        data_root=str(tmp_path), ann_file='two.txt', data_prefix=''
    )
    assert len(dataset.metainfo['classes']) == 1000
    class_names.check_heads(model(head=2), dataset, 'key')


def test_other_outputs_than_classes_are_none_of_ours(coco):
    """Things beside stuff."""
    dataset = build(coco, ('dog', 'cat', 'cow'), **COCO)
    dataset._metainfo['thing_classes'] = ('dog',)
    class_names.check_heads(model(bbox_head=1), dataset, 'key')
