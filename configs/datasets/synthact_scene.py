"""SynthAct-Scene (synthetic, built in): appearance tells."""

_base_ = "./synthact.py"
title = "SynthAct-Scene"
dataset = dict(name="synthact_scene", groups=["scene"])
