"""How mergekit comes to know the methods, and what the plugin leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from merges import Ran, mergekit_yaml, swap, write_config

ROOT = Path(__file__).parents[2]


def python(*arguments: str, **environment: str) -> Ran:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    return Ran(done.returncode, done.stdout + done.stderr)


def test_starting_python_imports_neither_the_plugin_nor_torch_nor_mergekit() -> None:
    loaded = python("-c", "import sys; print(*sys.modules)").text.split()
    assert not [name for name in loaded if name.split(".")[0] in ("torch", "mergekit", "typing")]
    assert "mergekit_omp" not in loaded


def test_importing_the_package_is_light_and_its_names_load_when_used() -> None:
    code = (
        "import sys, mergekit_omp;"
        "assert not {'torch', 'mergekit', 'transformers'} & set(sys.modules);"
        "mergekit_omp.orthogonal_matching_pursuit;"
        "assert 'torch' in sys.modules"
    )
    assert python("-c", code) == Ran(0, "")


def test_planning_a_merge_registers_the_methods_once() -> None:
    code = (
        "import mergekit.plan, mergekit_omp.plugin.hooks as p;"
        "from mergekit import merge_methods;"
        "n = len(merge_methods.registered_methods());"
        "p.activate();"
        "assert n == len(merge_methods.registered_methods());"
        "print(merge_methods.get('omp+ties').spec.name)"
    )
    assert python("-c", code).text.strip().endswith("omp+ties")


def test_the_environment_turns_it_off(models: Any, tmp_path: Path) -> None:
    base = models("sp", "sentencepiece_bpe")
    config = write_config(tmp_path / "c.yml", swap(base, base))
    done = mergekit_yaml(config, tmp_path / "out", MERGEKIT_OMP_DISABLE="1")
    assert done.status != 0
    assert "Unimplemented merge method omp" in done.text


def test_python_m_does_the_same_job_without_the_pth_file(models: Any, tmp_path: Path) -> None:
    base, donor = models("sp", "sentencepiece_bpe"), models("bytes", "byte_level", hidden=48)
    config = write_config(tmp_path / "c.yml", swap(base, donor, "zero"))
    # -S leaves out site and with it every .pth file; the paths come from the environment.
    done = python(
        "-S",
        "-m",
        "mergekit_omp",
        str(config),
        str(tmp_path / "out"),
        "--quiet",
        PYTHONPATH=os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]),
    )
    assert done == Ran(0, ""), "quiet is quiet"
    assert (tmp_path / "out" / "tokenizer_transplant.json").exists()


def test_a_wheel_activates_it(tmp_path: Path) -> None:
    built = python(
        *("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"),
        *("--wheel-dir", str(tmp_path), str(ROOT)),
    )
    assert built.status == 0, built.text
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    # Everything but the plugin comes from this environment; its own .pth files are not read.
    packages = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "zz_rest.pth").write_text(packages + "\n")
    target = tmp_path / "venv" / "bin" / "python"
    installed = python(
        *("-m", "pip", "--python", str(target), "install", "--no-deps", "--quiet", str(wheel))
    )
    assert installed.status == 0, installed.text
    assert (site / "mergekit_omp" / "py.typed").exists(), "type checkers ignore hints without it"
    done = subprocess.run(
        [
            str(target),
            "-c",
            "from mergekit.scripts import run_yaml; from mergekit import merge_methods;"
            "import mergekit_omp; print(mergekit_omp.__file__, merge_methods.get('mean+linear'))",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout


@pytest.mark.parametrize("method", ["omp", "linear"])
def test_an_unsupported_mergekit_is_an_error_only_where_a_method_is_used(
    method: str, models: Any, tmp_path: Path
) -> None:
    base = models("sp", "sentencepiece_bpe")
    config = write_config(
        tmp_path / "c.yml",
        swap(base, base, method) | {"models": [{"model": str(base), "parameters": {"weight": 1}}]},
    )
    # Another version as the installed package's metadata would tell it.
    fake = tmp_path / "fake" / "mergekit-9.9.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: mergekit\nVersion: 9.9\n")
    done = mergekit_yaml(config, tmp_path / "out", PYTHONPATH=str(fake.parent))
    if method == "linear":
        assert done.status == 0, done.text
    else:
        assert done.status == 1
        assert "Error: mergekit-omp works with mergekit>=0.1.5,<0.2, but mergekit 9.9" in done.text
        assert "Traceback" not in done.text
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_plain_merge_is_the_same_with_and_without_the_plugin(
    method: str, models: Any, tmp_path: Path
) -> None:
    base, tuned = models("sp", "sentencepiece_bpe"), models("sp5", "sentencepiece_bpe", seed=5)
    config = write_config(
        tmp_path / "c.yml",
        {
            "merge_method": method,
            "base_model": str(base),
            "models": [{"model": str(p), "parameters": {"weight": 0.5}} for p in (base, tuned)],
            "tokenizer_source": "union",
            "dtype": "float32",
        },
    )
    outputs = []
    for name, environment in (("with", {}), ("without", {"MERGEKIT_OMP_DISABLE": "1"})):
        # One name for both, since the model card tells it.
        out = tmp_path / name / "out"
        out.parent.mkdir()
        done = mergekit_yaml(config, out, **environment)
        assert done.status == 0, done.text
        outputs.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert "README.md" in outputs[0]
    assert outputs[0] == outputs[1]


def test_two_hash_seeds_give_the_same_bytes(models: Any, tmp_path: Path) -> None:
    names = [("sp", 0), ("sp5", 5), ("sp6", 6)]
    inputs = [models(name, "sentencepiece_bpe", seed=seed) for name, seed in names]
    donor = models("bytes", "byte_level", hidden=48, seed=1)
    config = write_config(
        tmp_path / "c.yml",
        {
            # Without a base_model mergekit's own order of models is that of a set.
            "merge_method": "omp+linear",
            "models": [{"model": str(path), "parameters": {"weight": 1}} for path in inputs],
            "tokenizer_source": str(donor),
            "parameters": {"k": 8},
            "dtype": "bfloat16",
        },
    )
    outputs = []
    for seed in ("1", "77"):
        out = tmp_path / seed / "out"
        out.parent.mkdir()
        done = mergekit_yaml(config, out, PYTHONHASHSEED=seed)
        assert done.status == 0, done.text
        outputs.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert outputs[0] == outputs[1]
