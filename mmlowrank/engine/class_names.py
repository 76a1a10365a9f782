"""Are the classes of a built data set those of its annotation files?

mmdet numbers the categories of a COCO file in the order of the file, and
passes over those that ``metainfo`` does not name. So one misspelt name, or
another order, gives later objects the label of another class, and nobody
says so. mmpretrain numbers folders in the order of the alphabet.
"""

import json
import logging
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmengine.fileio import get, get_local_path, list_from_file
from mmengine.logging import print_log
from torch import nn

_CATEGORIES = re.compile(rb'"categories"\s*:\s*(?=\[)')
# Parts of a model whose labels are the classes. Those of an RPN are not, nor
# always those of mmseg's auxiliary heads, of which some find edges.
_HEADS = {'bbox_head', 'mask_head', 'decode_head', 'head', 'decoder'}


def check_texts(datasets: Iterable[tuple[str, dict]]) -> None:
    """Check that no ``classes`` of a config is a single text.

    Before anything is built: a text is a sequence of its letters, in which a
    data set of XML files finds names and then has no number for them.

    Args:
        datasets: What leads to a data set in the config, and its config.

    Raises:
        ValueError: If one is, and no file of names either.
    """
    for key, dataset in datasets:
        classes = (dataset.get('metainfo') or {}).get('classes')
        if isinstance(classes, str) and not Path(classes).is_file():
            raise ValueError(_one_text(key, classes, str(dataset.get('type'))))


def _one_text(key: str, classes: str, kind: str) -> str:
    return (
        f'{key}: classes={classes!r} in metainfo of {kind} is one text, of '
        'which each letter is a class. Write the names themselves, in a '
        "tuple: classes=('cat', 'dog'), classes=('cat',)"
    )


def check_classes(dataset: Any, key: str, train: bool) -> None:
    """Compare ``metainfo`` with what the annotation files name.

    Args:
        dataset: A built data set; those inside repeated and joined ones are
            looked at.
        key: What it is in the config, for the errors.
        train: Whether it is trained on. In a test set of XML files, a class
            without an object is only warned about.

    Raises:
        ValueError: If the files lack a class, or objects would get the label
            of another class.
    """
    xml = []
    for inner in innermost(dataset):
        classes = _classes_of(inner)
        if isinstance(classes, str):
            raise ValueError(_one_text(key, classes, type(inner).__name__))
        if classes is None:
            continue
        if _is_xml(inner):
            xml.append(inner)
        else:
            _check_numbered(inner, list(classes), key)
    if xml:
        _check_xml(xml, key, train)


def check_heads(model: nn.Module, dataset: Any, key: str) -> None:
    """Compare ``num_classes`` of the heads with the classes to train.

    Where labels are numbers in a file, or words of a language model, the
    heads know better than ``metainfo``.

    Args:
        model: A detector, segmentor or classifier.
        dataset: The built data set that it is trained on.
        key: What it is in the config, for the errors.

    Raises:
        ValueError: If a head has fewer outputs than there are classes.
    """
    if hasattr(model, 'language_model'):
        return
    for inner in innermost(dataset):
        classes = _classes_of(inner)
        # A panoptic set has classes that no box has.
        if not classes or 'thing_classes' in inner.metainfo:
            continue
        if not (_is_xml(inner) or _is_coco(inner) or _has_folders(inner)):
            continue
        for name, module in model.named_modules():
            parts = [p for p in name.split('.') if not p.isdigit()]
            outputs = getattr(module, 'num_classes', None)
            if not parts or parts[-1] not in _HEADS:
                continue
            if getattr(module, 'class_agnostic', False):
                continue  # one mask for all classes
            if isinstance(outputs, int) and 0 < outputs < len(classes):
                raise ValueError(
                    f'{key}: {type(inner).__name__} has {len(classes)} '
                    f'classes, but model.{name} has num_classes={outputs}. '
                    f'Set it to {len(classes)}, or give the classes in '
                    'metainfo'
                )


def _is_xml(dataset: Any) -> bool:
    return hasattr(dataset, 'ann_subdir') and hasattr(dataset, 'sub_data_root')


def _is_coco(dataset: Any) -> bool:
    labels = getattr(dataset, 'cat2label', None)
    return labels is not None and hasattr(dataset, 'cat_ids')


def _has_folders(dataset: Any) -> bool:
    return hasattr(dataset, 'folder_to_idx')


def innermost(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that wrap no other."""
    wrapped = getattr(dataset, 'datasets', None)
    if wrapped is None and hasattr(dataset, 'dataset'):
        wrapped = [dataset.dataset]
    if wrapped is None:
        yield dataset
    for inner in wrapped or ():
        yield from innermost(inner)


def _classes_of(dataset: Any) -> Any:
    metainfo = getattr(dataset, 'metainfo', None)
    return metainfo.get('classes') if isinstance(metainfo, dict) else None


def _check_numbered(dataset: Any, classes: list[str], key: str) -> None:
    """Check a data set whose labels come from the order of its files."""
    if _is_coco(dataset):
        labels = dataset.cat2label
        categories = _categories(dataset)
        names = [name for _, name in categories]
        named = {labels[i]: name for i, name in categories if i in labels}
        source, order = dataset.ann_file, 'the order of the file'
    elif _has_folders(dataset):
        names = list(dataset.folder_to_idx)
        named = {label: name for name, label in dataset.folder_to_idx.items()}
        source, order = dataset.img_prefix, 'alphabetical order'
    else:
        return
    if not names:
        return
    known = set(classes)
    # A label that stands for a name which metainfo spells in another way is
    # right: LVIS and folders are numbered without regard to names.
    lacking = [
        name
        for label, name in enumerate(classes)
        if name not in names and named.get(label, name) in known
    ]
    shifted = {
        name: classes[label] if label < len(classes) else f'number {label}'
        for label, name in named.items()
        if label >= len(classes) or (name in known and name != classes[label])
    }
    if not (lacking or shifted):
        return
    faults = []
    if lacking:
        faults.append(f'{source} has no {", ".join(map(repr, lacking))}')
    if shifted:
        pairs = (f'{a!r} as {b!r}' for a, b in shifted.items())
        faults.append(f'objects would be labelled {", ".join(pairs)}')
    raise ValueError(
        f'{key}: the classes in metainfo of {type(dataset).__name__} are not '
        f'those of its files: {"; ".join(faults)}.\n'
        f'  metainfo: {tuple(classes)}\n'
        f'  file:     {tuple(names)}\n'
        'Give metainfo=dict(classes=...) names of the file, all or some, in '
        f'{order}'
    )


def _categories(dataset: Any) -> list[tuple[int, str]]:
    """Return id and name of the categories of a COCO file, in its order.

    The data set has parsed the file and kept no name. Parsing COCO's again
    takes 15 seconds, searching it for the one list less than one.
    """
    try:
        with (
            get_local_path(
                dataset.ann_file,
                backend_args=getattr(dataset, 'backend_args', None),
            ) as path,
            Path(path).open('rb') as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            starts = [m.end() for m in _CATEGORIES.finditer(text)]
            lists = [_json_at(text, start) for start in starts]
            found = [each for each in lists if _are_categories(each)]
            if len(found) != 1:
                found = [json.loads(text[:])['categories']]
            return [(c['id'], c['name']) for c in found[0]]
    except (KeyError, TypeError, ValueError):
        return []  # no COCO file


def _json_at(text: mmap.mmap, start: int) -> Any:
    """Parse the value that starts there, reading no further than needed."""
    size = 1 << 16
    while True:
        chunk = text[start : start + size].decode(errors='ignore')
        try:
            return json.JSONDecoder().raw_decode(chunk)[0]
        except ValueError:
            if start + size >= len(text):
                raise
            size *= 4


def _are_categories(value: Any) -> bool:
    return bool(value) and all(
        isinstance(c, dict) and 'id' in c and 'name' in c for c in value
    )


def _check_xml(datasets: list[Any], key: str, train: bool) -> None:
    """Check data sets of XML files, which have no list of their names.

    Labels come from the names, so nothing shifts; objects of other names
    are left out. Some classes of several are a fair choice, and one of
    several data sets may lack one. A class without an object in all of them,
    beside names that no class has, is taken for a misspelt one.
    """
    classes = list(dict.fromkeys(c for d in datasets for c in _classes_of(d)))
    seen = {
        _classes_of(dataset)[instance['bbox_label']]
        for dataset in datasets
        for i in range(len(dataset))
        for instance in dataset.get_data_info(i)['instances']
    }
    if seen >= set(classes):
        return
    # All files: a data set leaves out images without a known object.
    names = sorted({name for d in datasets for name in _names_in_xml(d)})
    lacking = [name for name in classes if name not in names]
    others = [name for name in names if name not in classes]
    if not (lacking and others):
        return
    files = ', '.join(dict.fromkeys(d.ann_file for d in datasets))
    text = (
        f'{key}: {files} lists no object named '
        f'{", ".join(map(repr, lacking))}, but others that '
        f'{type(datasets[0]).__name__} leaves out.\n'
        f'  metainfo: {tuple(classes)}\n'
        f'  files:    {tuple(names)}\n'
        'Give metainfo=dict(classes=...) names of the files, all or some'
    )
    if train:
        raise ValueError(text)
    print_log(text, logger='current', level=logging.WARNING)


def _names_in_xml(dataset: Any) -> set[str]:
    options = dict(backend_args=getattr(dataset, 'backend_args', None))
    folder = os.path.join(  # noqa: PTH118 - may be a URL
        dataset.sub_data_root, dataset.ann_subdir
    )
    names = set()
    for image in list_from_file(dataset.ann_file, **options):
        try:
            text = get(f'{folder}/{image}.xml', **options)
        except FileNotFoundError:
            continue  # another layout
        root = ElementTree.fromstring(text)
        names |= {obj.findtext('name') for obj in root.findall('object')}
    return names
