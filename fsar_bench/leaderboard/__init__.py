"""Leaderboards: a pure function of result files, their predictions and their episode plans. Imports no torch."""

from fsar_bench.leaderboard.boards import Board, Row, boards

__all__ = ["Board", "Row", "boards"]
