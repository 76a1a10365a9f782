"""The 19 tasks of VTAB-1k; plain data, importable without mmpretrain."""

from dataclasses import dataclass

GROUPS = ('Natural', 'Specialized', 'Structured')


@dataclass(frozen=True)
class Task:
    """One task of VTAB-1k.

    Attributes:
        title: Its name in the tables of papers.
        group: One of :data:`GROUPS`.
        classes: Number of classes; labels run from 0 to ``classes - 1``.
    """

    title: str
    group: str
    classes: int


# Folder of the task -> the task, in the order of the papers' tables.
TASKS = {
    'cifar': Task('CIFAR-100', 'Natural', 100),
    'caltech101': Task('Caltech101', 'Natural', 102),
    'dtd': Task('DTD', 'Natural', 47),
    'oxford_flowers102': Task('Flowers102', 'Natural', 102),
    'oxford_iiit_pet': Task('Pets', 'Natural', 37),
    'svhn': Task('SVHN', 'Natural', 10),
    'sun397': Task('Sun397', 'Natural', 397),
    'patch_camelyon': Task('Camelyon', 'Specialized', 2),
    'eurosat': Task('EuroSAT', 'Specialized', 10),
    'resisc45': Task('Resisc45', 'Specialized', 45),
    'diabetic_retinopathy': Task('Retinopathy', 'Specialized', 5),
    'clevr_count': Task('Clevr-Count', 'Structured', 8),
    'clevr_dist': Task('Clevr-Dist', 'Structured', 6),
    'dmlab': Task('DMLab', 'Structured', 6),
    'kitti': Task('KITTI-Dist', 'Structured', 4),
    'dsprites_loc': Task('dSpr-Loc', 'Structured', 16),
    'dsprites_ori': Task('dSpr-Ori', 'Structured', 16),
    'smallnorb_azi': Task('sNORB-Azim', 'Structured', 18),
    'smallnorb_ele': Task('sNORB-Ele', 'Structured', 9),
}
