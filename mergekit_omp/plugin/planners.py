"""The steps of `mergekit.merge.run_merge` up to its planner, for plans that we make ourselves."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from mergekit import architecture as architectures
from mergekit import merge
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner


def make_planner(
    config: MergeConfiguration, options: MergeOptions, opened: Callable[[], None] = lambda: None
) -> MergePlanner:
    """mergekit's planner for a merge. `opened` is called just before it is made.

    Raises TransplantError where mergekit-yaml would refuse a merge by one of our methods.
    """
    architecture = architectures.get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    out_config = merge._model_out_config(
        config, architecture, trust_remote_code=options.trust_remote_code
    )
    opened()
    return MergePlanner(config, architecture, options=options, out_model_config=out_config)


@contextlib.contextmanager
def only_errors_are_logged() -> Iterator[None]:
    """Within it, the package logs no warnings: the caller has them from the plan or a record."""
    ours = logging.getLogger("mergekit_omp")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(level)
