"""The standard protocol on the val split: settings are studied where choosing is allowed."""

_base_ = "../../configs/protocols/standard.py"
protocol = dict(split="val")
