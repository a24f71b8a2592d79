"""SynthAct-Order (synthetic, built in): reversed pairs, only the order of events tells."""

_base_ = "./synthact.py"
title = "SynthAct-Order"
dataset = dict(name="synthact_order", groups=["order"])
