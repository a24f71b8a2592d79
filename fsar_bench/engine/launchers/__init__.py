"""Launchers: cells on the nodes of a cluster, as `launcher=` says. `ray.py` and `slurm.py` know one kind of cluster each.

The driver is the process of the command. It groups cells into tasks (`chains.py`), hands so many at a time to the cluster
(`window.py`), and turns what comes back into outcomes (`drive.py`); a node runs the cells of a task by `run_isolated`
(`node.py`). Both talk in messages that are plain data (`messages.py`).
"""
