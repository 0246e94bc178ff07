"""Where questions come from: data files, the Hub, and the rows that both become."""

from latbench.data.file_task import FileTask, Source, read_split, short_name
from latbench.data.overlap import ContaminationReport, contamination, normalised_question, normalised_row, overlaps
from latbench.util.data_dir import DATA_DIR

__all__ = [
    "DATA_DIR",
    "ContaminationReport",
    "FileTask",
    "Source",
    "contamination",
    "normalised_question",
    "normalised_row",
    "overlaps",
    "read_split",
    "short_name",
]
