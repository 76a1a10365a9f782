"""Documents say what is there: commands, messages, links, tables."""

import argparse
import ast
import re
from pathlib import Path

import onnxruntime
import pages
import pytest
import switch_table
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import mmlowrank
from mmlowrank.analysis import count_parameters, records
from mmlowrank.engine import launch, tuned_config

ROOT = Path(__file__).resolve().parents[1]


def test_benchmark_figures_are_those_of_the_records(tool):
    """Otherwise run: python tools/analysis_tools/render_benchmarks.py."""
    assert tool('render_benchmarks.py', '--check') == ''
    texts = [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md')]
    assert sum(records.figures(path.read_text()) for path in texts) > 10


def test_the_matrix_of_switches_is_that_of_the_tests():
    """Otherwise run: python tests/switch_table.py."""
    assert switch_table.DOCS.read_text() == switch_table.text()


@pytest.mark.parametrize(
    'config',
    [
        'upernet_swin-mini_lorand-b4r8_1200it_digits.py',
        'faster-rcnn_swin-mini_lorand-b2r8_400it_digits-voc.py',
        'swin-mini_rlrr_30e_digits-turned.py',
    ],
)
def test_the_script_of_deploy_runs(config, tmp_path, monkeypatch):
    """What it writes computes what the model does."""
    cfg = Config.fromfile(ROOT / 'configs' / 'quickstart' / config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    monkeypatch.chdir(tmp_path)
    torch.save(model.state_dict(), 'CHECKPOINT.pth')
    cfg.dump('CONFIG.py')
    text = (ROOT / 'docs' / 'deploy.md').read_text()
    scope = {}
    for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
        exec(block, scope)
    raw, images = scope['raw'], scope['images']
    with torch.no_grad():
        expected = raw(images)
        traced = torch.jit.load('model.ts')(images)
        program = torch.export.load('model.pt2').module()(images)
    session = onnxruntime.InferenceSession('model.onnx')
    (name,) = [value.name for value in session.get_inputs()]
    onnx = map(torch.from_numpy, session.run(None, {name: images.numpy()}))
    for one in (traced, program, tuple(onnx)):
        one = one if isinstance(one, (tuple, list)) else (one,)
        other = (
            expected if isinstance(expected, (tuple, list)) else (expected,)
        )
        for ours, theirs in zip(one, other, strict=True):
            # float32 sums in other orders, of features of about 1.
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


PAGES = (
    'adapters.md',
    'backbones.md',
    'benchmarks/README.md',
    'feature_cache.md',
    'getting_started.md',
    'own_data.md',
    'serving.md',
    'several_machines.md',
    'troubleshooting.md',
)


def test_what_the_page_of_adapters_imports_is_there():
    blocks = [b for b in pages.blocks('adapters.md') if b.language == 'python']
    names = re.findall(
        r'^from mmlowrank import (.*)$',
        '\n'.join(b.text for b in blocks),
        re.M,
    )
    assert len(names) == 4
    for name in ', '.join(names).split(', '):
        assert callable(getattr(mmlowrank, name))


def test_what_the_page_of_backbones_tunes_can_be_built(tmp_path, monkeypatch):
    """Each of its commands with ``--tuner``, and each of its configs."""
    monkeypatch.chdir(tmp_path)
    Path('configs/own').mkdir(parents=True)
    blocks = pages.blocks('backbones.md')
    for block in blocks:
        if block.language == 'python':
            name = block.text.splitlines()[0].removeprefix('# ')
            Path(name).write_text(block.text)
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    tuned_config.add_arguments(parser)
    read = []
    for words in pages.commands(blocks):
        if 'train.py' not in words[1]:
            continue
        args = parser.parse_args(words[2:])
        options = dict(args.cfg_options or {})
        if 'dinov3' in args.config:
            # Downloads nothing.
            options['model.backbone.pretrained'] = False
        cfg = tuned_config.read(args.config, options, args.tuner)
        counts = count_parameters(cfg)
        assert 0 < counts['backbone_trainable'] < counts['backbone_stock'] / 20
        read.append(args.config)
    own = {name for name in read if name.startswith('configs/own')}
    assert own == {str(path) for path in Path('configs/own').glob('*.py')}
    assert len({name.partition('::')[0] for name in read} - own) == 3


# What makes the commands of docs/getting_started.md end in seconds.
SHORT = {
    'mask-rcnn': [
        'train_cfg.max_iters=2',
        'default_hooks.logger.interval=1',
    ],
    'swin-mini_lora': [
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'train_dataloader.dataset.indices=64',
        'val_dataloader.dataset.indices=8',
    ],
}


def test_getting_started_runs(
    tmp_path, digit_scenes, digit_swin, monkeypatch, capsys
):
    """Each command of Python, in the order of the page."""
    monkeypatch.setenv('DIGIT_SWIN', str(digit_swin))
    monkeypatch.setenv('DIGIT_SCENES', str(digit_scenes))
    clone = pages.Clone(tmp_path, monkeypatch)
    trained = []
    for words in pages.commands(pages.blocks('getting_started.md')):
        if words[0] != 'python':
            continue
        config = Path(words[2]).stem
        training = words[1] == 'tools/train.py'
        short = ()
        if training or words[1] == 'tools/test.py':
            (short,) = (v for k, v in SHORT.items() if config.startswith(k))
        clone.run(words, short)
        if training:
            # As after the whole schedule.
            work = f'work_dirs/{config}'
            if '--work-dir' in words:
                work = words[words.index('--work-dir') + 1]
            last = Config.fromfile(words[2]).train_cfg
            last = last.get('max_epochs') or last.max_iters
            for saved in Path(work).glob('*_[12].*'):
                unit = saved.stem.split('_')[0]
                copy = saved.with_name(f'{unit}_{last}{saved.suffix}')
                copy.write_bytes(saved.read_bytes())
            trained.append(work)
    assert len(set(trained)) == 3
    assert [*Path('work_dirs/first/pictures').rglob('*.jpg')]
    for made in ('predictions.pkl', 'best.safetensors', '../../stock.pth'):
        assert Path('work_dirs/first', made).is_file()
    assert 'trainable' in capsys.readouterr().out


@pytest.mark.parametrize('page', PAGES)
def test_commands_name_what_is_there(page):
    """Scripts, options and variables; placeholders are in capitals."""
    for words in pages.commands(pages.blocks(page)):
        variables = [word for word in words if re.match(r'[A-Z_]+=', word)]
        rest = words[len(variables) :]
        if rest[0] not in ('bash', 'python') or rest[1].startswith('-'):
            continue
        script = (ROOT / rest[1]).read_text()
        for variable in variables:
            name = variable.partition('=')[0]
            known = f'${{{name}' in script or name in OF_OTHERS
            assert known, f'{rest[1]} does not read {name}'
        if 'train.py' in script or 'test.py' in script:
            kind = 'train' if 'train' in rest[1] else 'test'
            script += (ROOT / 'tools' / f'{kind}.py').read_text()
            for module in (launch, tuned_config):
                script += Path(module.__file__).read_text()
        for option in (word for word in rest if word.startswith('--')):
            assert f"'{option}'" in script, f'{rest[1]} has no {option}'
        for word in rest[2:]:
            if word.startswith('configs/') and 'own/' not in word:
                assert (ROOT / word).is_file()


# Read by what the scripts start.
OF_OTHERS = {'CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS'}


def test_the_variables_of_several_machines_are_read():
    text = (ROOT / 'docs' / 'several_machines.md').read_text()
    scripts = {'NNODES': 'dist', 'GPUS': 'slurm'}
    tables = re.split(r'\| variable \| default \| means \|', text)[1:]
    for table in tables:
        rows = re.findall(r'^\| `(\w+)` \| (\S+?)[ ,]', table, re.MULTILINE)
        kind = scripts[rows[0][0]]
        for tool in ('train', 'test'):
            script = (ROOT / 'tools' / f'{kind}_{tool}.sh').read_text()
            for name, default in rows:
                default = '' if default in ('none', 'a') else default
                default = '$' if name == 'GPUS_PER_NODE' else default
                assert f'${{{name}:-{default}' in script, name
    assert len(tables) == 2


@pytest.mark.parametrize('page', [*PAGES, '../README.md', 'deploy.md'])
def test_links_lead_somewhere(page):
    path = ROOT / 'docs' / page
    for target in re.findall(r'\]\(([^)]+)\)', path.read_text()):
        file, _, anchor = target.partition('#')
        if '://' in file:
            continue
        there = (path.parent / file if file else path).resolve()
        assert there.exists(), target
        if anchor:
            titles = re.findall(r'^#+ (.*)$', there.read_text(), re.MULTILINE)
            assert anchor in map(anchor_of, titles), target


def anchor_of(title: str) -> str:
    """Return what GitHub makes of a heading."""
    return re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-')


def as_text(node: ast.AST) -> str:
    value = getattr(node, 'value', None)
    return value if isinstance(value, str) else '\0'


def texts_of_the_source() -> list[str]:
    """Return every text in the code; what is filled in is a NUL."""
    texts = []
    for folder in ('mmlowrank', 'tools', 'configs'):
        for path in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                parts = getattr(node, 'values', [node])
                texts.append(''.join(map(as_text, parts)))
    for path in (ROOT / 'tools').glob('*.sh'):
        # Words of `echo` go on behind a backslash.
        texts.append(re.sub(r'"? *\\\n *"?', ' ', path.read_text()))
    return [' '.join(text.split()) for text in set(texts)]


# The last three of four dots.
FILLED_IN = re.compile(r'\.\.\.(?!\.)')


def test_what_troubleshooting_quotes_is_still_said():
    """In the tables headed "... says"; ``...`` is what is filled in."""
    lines = (ROOT / 'docs' / 'troubleshooting.md').read_text().splitlines()
    ours, quoted = False, []
    for line in lines:
        if not line.startswith('|'):
            ours = False
        elif re.match(r'\| (mmlowrank|the set-up) says', line):
            ours = True
        elif ours and not line.startswith('|---'):
            quoted.append(re.match(r'\| `(.*?)` \|', line)[1])
    assert len(quoted) >= 20
    assert len(set(quoted)) == len(quoted)
    texts = texts_of_the_source()
    gone = []
    for message in quoted:
        parts = [re.escape(part.strip()) for part in FILLED_IN.split(message)]
        # Some messages have three dots of their own.
        pattern = re.compile(r'\s*(?:\0.*?|\.\.\.)\s*'.join(parts))
        if not any(map(pattern.search, texts)):
            gone.append(message)
    assert not gone
