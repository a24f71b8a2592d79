"""SynthAct-Scene (synthetic, built in): classes that appearance distinguishes."""

_base_ = "./synthact.py"
title = "SynthAct-Scene"
dataset = dict(name="synthact_scene", groups=["scene"])
