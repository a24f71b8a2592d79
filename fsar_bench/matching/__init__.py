"""Matchers: distances between queries and classes from frame features. Thin modules around pure functions of tensors."""

from fsar_bench.matching.bi_mhm import BiMHM, bi_mhm
from fsar_bench.matching.chamfer import AllPairs, Chamfer, Diagonal, LinearPairs, NearestPair, TupleChamfer, chamfer
from fsar_bench.matching.dtw import DTW, dtw
from fsar_bench.matching.matcher import Matcher, PairMatcher, build_matcher, frame_distance, moved_frame_distance
from fsar_bench.matching.matching_network import MatchingNetwork, class_log_probability
from fsar_bench.matching.otam import OTAM, otam
from fsar_bench.matching.prototype import CosinePrototype, EuclideanPrototype, MeanCosine
from fsar_bench.matching.trx import TRX, tuple_distance

__all__ = [
    "DTW",
    "OTAM",
    "TRX",
    "AllPairs",
    "BiMHM",
    "Chamfer",
    "CosinePrototype",
    "Diagonal",
    "EuclideanPrototype",
    "LinearPairs",
    "Matcher",
    "MatchingNetwork",
    "MeanCosine",
    "NearestPair",
    "PairMatcher",
    "TupleChamfer",
    "bi_mhm",
    "build_matcher",
    "chamfer",
    "class_log_probability",
    "dtw",
    "frame_distance",
    "moved_frame_distance",
    "otam",
    "tuple_distance",
]
