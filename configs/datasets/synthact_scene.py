"""SynthAct-Scene (synthetic, built in): places, which appearance tells apart, filmed by cameras that the small CLIP never met."""

_base_ = "./synthact.py"
title = "SynthAct-Scene"
dataset = dict(name="synthact_scene", annotation="builtin:synthact_scene")
