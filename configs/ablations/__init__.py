"""Tables of papers, row by row: what `methods=ablations/NAME` runs."""
