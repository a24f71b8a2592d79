"""Leaderboards: a pure function of result files, their predictions and their episode plans. Imports no torch."""

from fsar_bench.leaderboard.boards import Board, Entry, boards
from fsar_bench.leaderboard.collection import Results, load_results
from fsar_bench.leaderboard.compare import Comparison, compare
from fsar_bench.leaderboard.merge import Merge, merge
from fsar_bench.leaderboard.rows import Row

__all__ = ["Board", "Comparison", "Entry", "Merge", "Results", "Row", "boards", "compare", "load_results", "merge"]
