"""MA-CLIP, tables 1 and 2: MA-CLIP next to OTAM and CLIP-FSAR on the same encoder.

Command: fsar-bench run methods=ablations/table1_2
"""

rows = ["otam", "clip_fsar", "ma_clip"]
published = {  # ViT-B/16, 5-way 1-shot; OTAM and CLIP-FSAR as CLIP-FSAR's paper has them (arXiv 2303.02982, tables 1 and 2)
    "Kinetics-100": [88.2, 89.7, 95.7],
    "SSv2-Small": [43.3, 54.5, 59.1],
    "SSv2-Full": [50.2, 61.9, 63.3],
}
