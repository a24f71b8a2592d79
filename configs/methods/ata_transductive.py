"""ATA, transductive: prototypes refined on the queries of the episode (ECCV 2022, re-implementation).

Command: fsar-bench run methods=ata_transductive   (shares its training with ata)
"""

_base_ = "./ata.py"
title = "ATA, transductive"
method = dict(transductive=True)
