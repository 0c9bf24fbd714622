"""vlpeft: a benchmark harness for parameter-efficient adaptation of vision-language models.

The names below are for notebooks and scripts; `docs/api.md` shows how to use them. Each is imported
when it is first used, so that `import vlpeft` takes no time.

In a checkout, the packages in this folder are links to the folders of the same names next to it.
A wheel holds their files here. Either way, each module has one name: `vlpeft.benchmark.run.loop`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlpeft.api import (
        LoadedAdapter,
        SweepResults,
        adapt,
        leaderboard,
        load_adapter,
        open_results,
        plan,
        predict,
        report,
        run,
    )
    from vlpeft.benchmark.contract.backbone import Backbone
    from vlpeft.benchmark.contract.method import Method
    from vlpeft.benchmark.contract.sites import Site
    from vlpeft.benchmark.core.registry import register
    from vlpeft.benchmark.plan.sweep import load_sweep

__all__ = [
    "Backbone",
    "LoadedAdapter",
    "Method",
    "Site",
    "SweepResults",
    "adapt",
    "leaderboard",
    "load_adapter",
    "load_sweep",
    "open_results",
    "plan",
    "predict",
    "register",
    "report",
    "run",
]

_ELSEWHERE = {
    "Backbone": "vlpeft.benchmark.contract.backbone",
    "Method": "vlpeft.benchmark.contract.method",
    "Site": "vlpeft.benchmark.contract.sites",
    "load_sweep": "vlpeft.benchmark.plan.sweep",
    "register": "vlpeft.benchmark.core.registry",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'vlpeft' has no attribute '{name}'")
    return getattr(import_module(_ELSEWHERE.get(name, "vlpeft.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
