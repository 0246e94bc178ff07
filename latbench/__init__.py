"""latbench: benchmark and evaluation harness, with baselines, for language models that reason in latent vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latbench.api import (
        Result,
        Run,
        available,
        check,
        compare,
        cost,
        evaluate,
        export,
        get_method,
        get_task,
        import_release,
        leaderboard,
        load_run,
        rerun,
        serve,
        sweep,
        train,
    )

    __version__: str

__all__ = [
    "Result",
    "Run",
    "__version__",
    "available",
    "check",
    "compare",
    "cost",
    "evaluate",
    "export",
    "get_method",
    "get_task",
    "import_release",
    "leaderboard",
    "load_run",
    "rerun",
    "serve",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """Public names on first use, so that `import latbench` and the tables need no torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("latbench")
    if name in __all__:
        from latbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'latbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, also before their first use."""
    return sorted({*globals(), *__all__})
