"""MA-CLIP, table 5: supports adapted like queries (spatio-temporal) or with the text of their class (multimodal).

Command: fsar-bench run methods=ablations/table5
Paper, ViT-B/32, 5-way 1-shot, SSv2-Small / SSv2-Full: 55.9 / 61.2, 56.5 / 61.9.
"""

rows = ["ma_clip method.support_branch=spatiotemporal", "ma_clip"]
