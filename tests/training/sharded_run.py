"""Train as the command line does, with weights sharded over processes on a CPU, as Accelerate does on GPUs alone.

accelerate launch --config_file FILE sharded_run.py ARGUMENTS OF LATBENCH
"""

from __future__ import annotations

import os
import sys
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from latbench.cli import main
from latbench.training.stage_trainer import StageTrainer

real = PartialState.__init__


def named_as_accelerators(self: PartialState, *given: Any, **options: Any) -> None:
    """Processes over gloo, which Accelerate is to treat as it treats GPUs."""
    real(self, *given, **options)
    if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = named_as_accelerators
    if stop := int(os.environ.get("STOP_AFTER", "0")):
        step_done = StageTrainer.step_done

        def leaving(self: StageTrainer) -> None:
            """All processes leave after a step, as if killed."""
            step_done(self)
            if self.state.global_step == stop:
                os._exit(0)

        StageTrainer.step_done = leaving  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
