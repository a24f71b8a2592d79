"""SynthAct: the generator of the built-in few-shot action dataset (synthetic, ours).

The engine never imports this package; it ships only what `python -m tools.synthact.build` writes.
"""
