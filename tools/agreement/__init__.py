"""How well the built-in boards predict the literature: rank correlations, and the regimes of the three worlds."""
