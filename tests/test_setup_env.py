"""The set-up survives what machines do; see uv_stand_in.py."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / 'tools' / 'environment'
INSTALL_CALLS = 3  # the lock, peft, mmlowrank
STAMP = '.mmlowrank_ready'


@pytest.fixture
def module(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(ENVIRONMENT)
    return importlib.import_module('setup_env')


class Machine:
    """A machine with bash, `dirname`, Python and uv, and nothing else."""

    def __init__(self, folder):
        self.folder = folder
        self.venv = folder / "it's a venv"
        self.calls_file = folder / 'calls.txt'
        self.settings = {}
        (folder / 'bin').mkdir(parents=True)
        for tool in ('bash', 'dirname'):
            self.tool(tool).symlink_to(shutil.which(tool))
        self.script('python3', f'exec {shlex.quote(sys.executable)} "$@"')
        stand_in = shlex.quote(str(ROOT / 'tests' / 'uv_stand_in.py'))
        self.script('uv', f'exec python3 {stand_in} "$@"')

    def tool(self, name):
        return self.folder / 'bin' / name

    def script(self, name, text):
        self.tool(name).write_text(f'#!{shutil.which("bash")}\n{text}\n')
        self.tool(name).chmod(0o755)

    def start(self, kills=0, **settings):
        environment = dict(
            PATH=str(self.folder / 'bin'),
            HOME=str(self.folder),
            UV_CALLS=str(self.calls_file),
            UV_KILLS=str(kills),
            OMP_NUM_THREADS='1',
        )
        environment.update(settings)
        return subprocess.Popen(
            ['bash', ROOT / 'tools' / 'setup_env.sh', self.venv],
            env={k: v for k, v in environment.items() if v is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **settings):
        """Return the exit status and all that was said."""
        process = self.start(**settings)
        out, err = process.communicate()
        return process.returncode, out + err

    def calls(self):
        """Return verb, words and settings of each call of uv; forget them."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return [json.loads(line)[1:] for line in lines]

    def activated(self, command):
        """Return what a shell of the user prints."""
        activate = shlex.quote(str(self.venv / 'bin' / 'activate'))
        return subprocess.run(
            ['bash', '-c', f'source {activate}; {command}'],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A machine with an environment, for tests that do not change it."""
    machine = Machine(tmp_path_factory.mktemp('with') / "o'clock and more")
    status, said = machine.run()
    assert status == 0, said
    machine.said = said
    machine.first = machine.calls()
    return machine


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture(scope='module')
def empty(tmp_path_factory):
    """What a set-up begins with."""
    folder = tmp_path_factory.mktemp('empty') / 'venv'
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    (folder / '.setup.lock').touch()
    return folder


@pytest.fixture
def begun(machine, empty):
    """A machine where the first step is done: saves seconds a test."""
    shutil.copytree(empty, machine.venv, symlinks=True)
    return machine


def test_a_path_with_an_apostrophe_and_spaces(made):
    """No compiler, ninja, procps, git or coreutils is there either."""
    assert made.activated('python -c "import sys; print(sys.prefix)"') == str(
        made.venv
    )
    (last,) = [x for x in made.said.splitlines() if 'ready. Use it' in x]
    assert last.startswith('[setup] ready. Use it with: source ')
    (path,) = shlex.split(last)[-1:]
    assert Path(path) == made.venv / 'bin' / 'activate'
    verbs = [verb for verb, *_ in made.first]
    assert verbs == ['install'] * INSTALL_CALLS


def test_the_second_run_only_checks(made):
    status, said = made.run()
    assert status == 0
    assert f'{made.venv} is ready (mmcv ops: none)' in said
    assert not made.calls()


def test_killed_in_any_step_and_run_again(begun):
    for step in range(1, INSTALL_CALLS + 1):
        status, _ = begun.run(kills=step)
        assert status == -9
        assert len(begun.calls()) == step
        assert not (begun.venv / STAMP).exists()
    status, said = begun.run()
    assert status == 0, said
    assert '1/5 environment' not in said
    assert (begun.venv / STAMP).exists()


def test_killed_while_the_environment_was_made(begun):
    (pip,) = begun.venv.glob('lib/*/site-packages/pip')
    shutil.rmtree(pip / '_internal')
    status, said = begun.run(kills=1)
    assert status == -9
    assert '1/5 environment' in said
    assert (pip / '_internal').exists()


def test_what_is_changed_is_not_ready(begun):
    """Killed in a repair, or with other requirements: the stamp goes first."""
    (begun.venv / STAMP).write_text(f'none\n\nold\n{ROOT}\n{begun.venv}')
    status, said = begun.run(kills=1)
    assert status == -9
    assert '1/5 environment' not in said
    assert not (begun.venv / STAMP).exists()


def test_two_at_once(machine):
    first = machine.start()
    while not machine.venv.exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    time.sleep(0.2)
    second = machine.start()
    assert first.wait() == 0 and second.wait() == 0
    assert 'waiting for another set-up' in second.stdout.read()
    assert len(machine.calls()) == INSTALL_CALLS
    for process in (first, second):
        process.communicate()


def test_a_moved_environment_is_made_again(begun):
    """What is in it has its old path in the first line."""
    (begun.venv / STAMP).write_text(f'none\n\nold\n{ROOT}\n/elsewhere')
    status, said = begun.run(kills=1)
    assert status == -9
    assert '1/5 environment' in said
    assert begun.activated('command -v pip').startswith(str(begun.venv))


@pytest.mark.parametrize('home', [None, '/proc/nowhere'])
def test_no_home_or_one_that_cannot_be_written(begun, home):
    """Not even root can write into /proc."""
    status, said = begun.run(HOME=home, kills=1)
    assert status == -9, said
    ((_, _, settings),) = begun.calls()
    cache = Path(settings['UV_CACHE_DIR'])
    if home:
        assert cache == begun.venv / '.cache' / 'uv'
    else:  # the user's of the system
        assert cache.is_absolute()


def test_a_cache_on_another_disk_is_not_used(module, monkeypatch, tmp_path):
    """A quota of a home is less than a torch, and links need one disk."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    here = module.Environment(tmp_path / 'venv')
    assert here.uv_cache == tmp_path / 'uv'
    there = module.Environment(Path('/dev/shm/no/such'))
    assert there.uv_cache == Path('/dev/shm/no/such/.cache/uv')


def test_a_python_that_does_not_run_is_passed_over(begun):
    """A shim of pyenv whose version is gone, and a Python of 2015."""
    python = begun.tool('python3').rename(begun.tool('python3.12'))
    begun.script('python3', 'echo "pyenv: version not installed"; exit 127')
    begun.script('python3.13', 'exit 1')
    text = begun.tool('uv').read_text().replace('python3', python.name)
    begun.tool('uv').write_text(text)
    status, said = begun.run(kills=1)
    assert status == -9, said
    python.unlink()
    status, said = begun.run()
    assert status == 1
    assert 'mmlowrank needs Python >= 3.10, and none of these' in said
    status, said = begun.run(PYTHON='/no/python')
    assert 'runs: /no/python. Install it, or set PYTHON=' in said


def test_a_folder_of_somebody_else_is_left_alone(machine):
    machine.venv.mkdir()
    (machine.venv / 'lib').mkdir()
    (machine.venv / 'lib' / 'mine.txt').write_text('mine')
    status, said = machine.run()
    assert status == 1
    assert 'is not empty, and no environment with a pip' in said
    assert (machine.venv / 'lib' / 'mine.txt').read_text() == 'mine'


def test_a_folder_that_cannot_be_written(machine):
    machine.venv = machine.tool('python3') / 'venv'
    status, said = machine.run()
    assert status == 1
    assert f'{machine.venv} cannot be written' in said
    assert 'bash tools/setup_env.sh FOLDER' in said


def test_a_full_disk_is_said(module, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(module, 'free', lambda path: 2**20)
    environment = module.Environment(tmp_path)
    with pytest.raises(SystemExit, match=r'The disk of .* is full'):
        environment.call('the installation', sys.executable, '-c', '1 / 0')
    assert 'ZeroDivisionError' in capfd.readouterr().err
    monkeypatch.setattr(sys, 'argv', ['setup_env.py', str(tmp_path / 'new')])
    monkeypatch.delenv('MMCV_OPS', raising=False)
    with pytest.raises(SystemExit, match=r'Only 0\.0 GiB free for .*new, 10'):
        module.main()
    assert not (tmp_path / 'new').exists()


def test_a_compiler_is_looked_for_before_the_download(machine):
    status, said = machine.run(MMCV_OPS='compile')
    assert status == 1
    assert 'No C++ compiler found' in said
    assert "leave MMCV_OPS out and use torchvision's ops" in said
    assert not machine.venv.exists()
    status, said = machine.run(MMCV_OPS='yes')
    assert 'MMCV_OPS is "compile" or "none", got "yes"' in said


def test_what_compiling_needs(monkeypatch, tmp_path, machine):
    monkeypatch.syspath_prepend(ENVIRONMENT)
    build_mmcv = importlib.import_module('build_mmcv')
    monkeypatch.setenv('PATH', str(machine.folder / 'bin'))
    monkeypatch.setenv('CUDA_HOME', str(tmp_path / 'cuda'))
    monkeypatch.delenv('CXX', raising=False)
    cache = tmp_path / 'cache'
    assert 'No C++ compiler' in build_mmcv.lacking(cache)
    machine.script('c++', '')
    header = Path(build_mmcv.sysconfig.get_path('include'), 'Python.h')
    assert header.is_file() == (build_mmcv.lacking(cache) is None)
    monkeypatch.setattr(
        build_mmcv.sysconfig, 'get_path', lambda name: str(tmp_path)
    )
    assert 'Python headers are missing' in build_mmcv.lacking(cache)
    (tmp_path / 'Python.h').touch()
    machine.script('nvidia-smi', 'echo 7.0')
    assert 'no nvcc' in build_mmcv.lacking(cache)
    (tmp_path / 'cuda' / 'bin').mkdir(parents=True)
    machine.script('nvcc', '')
    machine.tool('nvcc').rename(tmp_path / 'cuda' / 'bin' / 'nvcc')
    assert build_mmcv.lacking(cache) is None
    # A wheel that is there needs no compiler.
    machine.tool('c++').unlink()
    folder = cache / 'mmcv2.3.6-ops-O2-cp311-torch2.11.0-cpu'
    folder.mkdir(parents=True)
    (folder / 'half.whl').write_bytes(b'PK')
    assert build_mmcv.lacking(cache) is None
    # But half of one, or one without ops, is not taken.
    for name in ('mmcv/ops/nms.py', 'mmcv/_ext.cpython-311.so'):
        assert not list(build_mmcv.wheels(folder))
        with zipfile.ZipFile(folder / 'whole.whl', 'w') as wheel:
            wheel.writestr(name, 'text')
    assert [p.name for p in build_mmcv.wheels(folder)] == ['whole.whl']


def test_no_card_fits_before_the_download(machine):
    status, said = machine.run(COMPUTE_CAP='3.7')
    assert status == 1
    assert 'No torch was chosen. No build of torch has kernels' in said
    assert not machine.venv.exists()


def test_torch_for_older_cards(begun):
    """The rest of the lock, then the build with all that it brings."""
    status, _ = begun.run(COMPUTE_CAP='7.0', kills=2)
    assert status == -9
    (_, rest, _), (_, torch, _) = begun.calls()
    assert rest[:2] == ['--no-deps', '-r']
    assert rest[2] != str(ROOT / 'requirements' / 'lock.txt')
    assert torch == [
        '--torch-backend=cu126',
        'torch==2.11.0+cu126',
        'torchvision==0.26.0+cu126',
    ]


def test_the_index_of_pip_is_the_index_of_uv(begun):
    config = begun.folder / 'pip.conf'
    config.write_text('[global]\nindex-url = https://mirror.example/simple\n')
    begun.run(kills=1, PIP_CONFIG_FILE=str(config), PIP_CERT='/etc/some.pem')
    ((_, _, settings),) = begun.calls()
    assert settings['UV_DEFAULT_INDEX'] == 'https://mirror.example/simple'
    assert settings['SSL_CERT_FILE'] == '/etc/some.pem'
    begun.run(
        kills=1,
        PIP_CONFIG_FILE=str(config),
        UV_DEFAULT_INDEX='https://other.example/simple',
    )
    ((_, _, settings),) = begun.calls()
    assert settings['UV_DEFAULT_INDEX'] == 'https://other.example/simple'


def test_the_lock_has_what_is_required(module):
    """Each requirement at its version, and one OpenCV: the headless one."""
    lock = module.LOCK.read_text()
    for path in {*module.LOCK.parent.glob('*.txt')} - {
        module.LOCK,
        module.PEFT,
    }:
        lines = path.read_text().splitlines()
        for line in filter(None, (x.split('#')[0].strip() for x in lines)):
            if line.startswith('opencv-python=='):
                continue
            name = re.match(r'[\w-]+', line)[0]
            wanted = line if '==' in line else f'{name}=='
            assert f'\n{wanted}' in lock, line
    assert '\nopencv-python-headless==' in lock
    assert '\nopencv-python==' not in lock


def test_what_peft_needs_stays_out_of_the_environment(module):
    """mmengine would import transformers in every process.

    What timm needs, too, is there in a version of its own.
    """
    lock, text = module.LOCK.read_text(), module.PEFT.read_text()
    names = re.findall(r'^([\w-]+)==', text, re.M)
    assert {'peft', 'transformers'} <= {*names}
    both = {'hf-xet', 'huggingface-hub', 'idna'}
    assert {name for name in names if f'\n{name}==' in lock} == both
    assert text.count('--hash=') >= len(names)


def test_the_opencv_here_needs_no_screen():
    """That of opencv-python needs libGL by its Qt; servers have none."""
    files = distribution('opencv-python-headless').files
    binaries = [f for f in files if '.so' in f.name]
    assert binaries
    for file in binaries:
        assert b'libGL.so' not in Path(file.locate()).read_bytes(), file
