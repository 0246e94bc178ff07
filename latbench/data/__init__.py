"""Where questions come from: data files, the Hub, and the rows that both become."""

from latbench.data.file_task import (
    DATA_DIR,
    ContaminationReport,
    FileTask,
    Source,
    contamination,
    normalised_question,
    read_split,
    short_name,
)

__all__ = [
    "DATA_DIR",
    "ContaminationReport",
    "FileTask",
    "Source",
    "contamination",
    "normalised_question",
    "read_split",
    "short_name",
]
