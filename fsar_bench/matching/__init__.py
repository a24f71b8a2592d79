"""Matchers: distances between queries and classes, from frame features. Pure kernels below thin modules."""

from fsar_bench.matching.bi_mhm import BiMHM, bi_mhm
from fsar_bench.matching.matcher import Matcher, build_matcher, frame_distance
from fsar_bench.matching.otam import OTAM, otam
from fsar_bench.matching.prototype import CosinePrototype

__all__ = ["OTAM", "BiMHM", "CosinePrototype", "Matcher", "bi_mhm", "build_matcher", "frame_distance", "otam"]
