"""What is made of configs/paper_tables.yml is up to date, and complete."""

import runpy
from pathlib import Path

import pytest
import yaml

from mmlowrank.analysis import paper_tables

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
TOOL = runpy.run_path(str(ROOT / 'tools/analysis_tools/paper_tables.py'))
each_folder = pytest.mark.parametrize('folder', TOOL['FOLDERS'])


@pytest.mark.parametrize('folder', ['', *TOOL['FOLDERS']])
def test_what_is_made_is_up_to_date(folder):
    """As ``paper_tables.py --check``; without it, it renews them."""
    made = TOOL['made'](folder)
    assert made
    for path, text in made.items():
        assert path.read_text() == text, path


def test_every_config_of_the_tables_is_there():
    for table in paper_tables.read_tables(CONFIGS):
        for row in table.rows:
            # Either a config stands for it, or it is said why none does.
            assert bool(row.configs) != bool(row.why), row
            for leaf in row.configs:
                assert (CONFIGS / f'{leaf}.py').is_file()


@each_folder
def test_metafile(folder):
    text = (CONFIGS / folder / 'metafile.yml').read_text()
    meta = yaml.safe_load(text)
    names = [f'{folder}/{model["Name"]}' for model in meta['Models']]
    assert names == paper_tables.leaves(CONFIGS, folder)
    collections = {entry['Name'] for entry in meta['Collections']}
    used = {model['In Collection'] for model in meta['Models']}
    assert used == collections
    for entry in meta['Collections']:
        assert (ROOT / entry['README']).is_file()
    for model in meta['Models']:
        assert (ROOT / model['Config']).is_file()
        assert 'Weights' not in model
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert f'configs/{folder}/metafile.yml' in index['Import']


def test_one_printed_number():
    """Table 2 of the LoRand paper, first column."""
    found = paper_tables.scores(
        CONFIGS, 'lorand/cascade-mask-rcnn_swin-b_lorand-b2r8_3x_coco'
    )
    assert found['LoRand table 2', 'box AP'] == 51.1
    assert found['LoRand table 3a', 'mask AP'] == 44.3
    assert found['E3VA table 2', 'mask AP'] == 43.9


def test_a_document_without_its_place_is_refused(tmp_path):
    path = tmp_path / 'README.md'
    path.write_text('no marker')
    with pytest.raises(SystemExit, match='has 0 places'):
        TOOL['filled'](path, {'coverage': ''})
