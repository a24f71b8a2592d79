"""Testers: the contracts of methods, backbones and matchers, tested on tiny random input in seconds."""

from fsar_bench.testing.backbones import BackboneTester
from fsar_bench.testing.matchers import MatcherTester
from fsar_bench.testing.methods import MethodTester
from fsar_bench.testing.tester import BrokenError, NotTestedError, Outcome, Tester, describe_error

__all__ = [
    "BackboneTester",
    "BrokenError",
    "MatcherTester",
    "MethodTester",
    "NotTestedError",
    "Outcome",
    "Tester",
    "describe_error",
]
