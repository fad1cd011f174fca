"""What every test shares: shapes checked at run time, real tokenizers, small models, merges."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

install_import_hook("mergekit_omp", "beartype.beartype")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import real_tokenizers  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from merges import Ran, merge_here, write_config  # noqa: E402
from readers import OlderTransformers  # noqa: E402
from small_models import save_model  # noqa: E402

# The same examples in every run, and no time limit for one: machines differ.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def tokenizers_dir(request: pytest.FixtureRequest) -> Path:
    """Where converted tokenizers stay from one run of the suite to the next."""
    return Path(request.config.cache.mkdir("tokenizers"))


@pytest.fixture(scope="session")
def real_tokenizer(tokenizers_dir: Path) -> Callable[[str], Any]:
    """A published or trained tokenizer by name."""
    return lambda name: real_tokenizers.load(name, tokenizers_dir)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, real_tokenizer: Callable[[str], Any]) -> Any:
    """`models(name, tokenizer, **settings)`: a small random model, made once per session."""
    root = tmp_path_factory.mktemp("models")

    def make(name: str, tokenizer: str, **settings: Any) -> Path:
        key = hashlib.sha256(repr((tokenizer, sorted(settings.items()))).encode()).hexdigest()
        path = root / f"{name}-{key[:8]}"
        if not path.exists():
            save_model(path, real_tokenizer(tokenizer), **settings)
        return path

    return make


@pytest.fixture(scope="session")
def family(models: Any) -> list[Path]:
    """A base and two fine-tunes of it: one vocabulary, other weights."""
    return [
        models(f"sp_{seed}", "sentencepiece_bpe", seed=seed, layers=1, hidden=16)
        for seed in (0, 5, 6)
    ]


@pytest.fixture(scope="session")
def base(family: list[Path]) -> Path:
    """A model that is to get the donor's tokenizer."""
    return family[0]


@pytest.fixture(scope="session")
def donor(models: Any) -> Path:
    """A donor of another vocabulary and hidden size."""
    return models("bytes", "byte_level", hidden=48, seed=1)


@pytest.fixture
def merge(tmp_path: Path) -> Callable[..., Path]:
    """Merge by a config and return the output directory; the merge must succeed."""

    def run(config: dict[str, Any], name: str = "out", *options: str) -> Path:
        out = tmp_path / name
        done = merge_here(config, out, *options)
        assert done.status == 0, done.text
        return out

    return run


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """Merge by a config that must be refused before anything is written; what was said."""

    def run(config: dict[str, Any], *options: str) -> str:
        out = tmp_path / "refused"
        done = merge_here(config, out, *options)
        assert done.status == 1, done.text
        assert not out.exists(), "something was written"
        errors = [line for line in done.text.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, done.text
        return errors[0]

    return run


@pytest.fixture
def inspected(tmp_path: Path) -> Callable[..., Ran]:
    """Run `mergekit-omp inspect` on a config; an error that is no exit is raised."""

    def run(config: dict[str, Any], *options: str) -> Ran:
        from mergekit_omp.cli import main

        path = write_config(tmp_path / "inspected.yml", config)
        result = CliRunner().invoke(main, ["inspect", str(path), *options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.output)

    return run


@pytest.fixture(scope="session")
def older() -> Iterator[OlderTransformers]:
    """transformers 4.57 in a process of its own, for all tests."""
    with OlderTransformers() as process:
        yield process
