"""MA-CLIP, table 5: supports adapted like queries (spatio-temporal) or with the text of their class (multimodal).

Command: fsar-bench run methods=ablations/table5
"""

rows = ["ma_clip method.support_branch=spatiotemporal", "ma_clip"]
published = {"SSv2-Small": [55.9, 56.5], "SSv2-Full": [61.2, 61.9]}  # ViT-B/32, 5-way 1-shot
