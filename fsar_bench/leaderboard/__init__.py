"""Leaderboards: a pure function of result files, their predictions and their episode plans. Imports no torch."""

from fsar_bench.leaderboard.boards import Board, Entry, build_boards
from fsar_bench.leaderboard.rows import Row

__all__ = ["Board", "Entry", "Row", "build_boards"]
