"""SynthAct-Order (synthetic, built in): motions of things that could be any, which only the order of events distinguishes."""

_base_ = "./synthact.py"
train = dict(episodes=400, accumulate=1)  # order is learnt slowly: docs/agreement.md tells what shorter trainings hide
title = "SynthAct-Order"
dataset = dict(name="synthact_order", groups=["order"])
