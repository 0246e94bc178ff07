"""An evaluation is a run on questions: its plan, records, manifest and metrics."""
