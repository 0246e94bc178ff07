"""latbench: benchmark and evaluation harness, with baselines, for language models that reason in latent vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latbench.api import evaluate, get_method, get_task, import_release, load_run, train

__all__ = ["evaluate", "get_method", "get_task", "import_release", "load_run", "train"]


def __getattr__(name: str) -> Any:
    """Public names on first use, so that `import latbench` and the tables need no torch."""
    if name in __all__:
        from latbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'latbench' has no attribute {name!r}")
