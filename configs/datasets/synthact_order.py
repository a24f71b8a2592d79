"""SynthAct-Order (synthetic, built in): motions of things that could be any, which only the order of events distinguishes."""

_base_ = "./synthact.py"
title = "SynthAct-Order"
dataset = dict(name="synthact_order", groups=["order"])
