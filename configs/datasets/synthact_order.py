"""SynthAct-Order (synthetic, built in): pairs of reversed classes, which only the order of events distinguishes."""

_base_ = "./synthact.py"
title = "SynthAct-Order"
dataset = dict(name="synthact_order", groups=["order"])
