"""MA-CLIP, table 7: OTAM, Bi-MHM and TRX, alone on the fine-tuned image encoder and inside MA-CLIP.

Command: fsar-bench run methods=ablations/table7   (the rows on an ImageNet encoder: methods=ablations/table7_imagenet)
"""

rows = ["otam", "ma_clip", "bi_mhm", "ma_clip matcher=BiMHM", "trx", "ma_clip matcher=TRX"]
published = {  # ViT-B/32, 5-way 1-shot
    "Kinetics-100": [83.7, 93.5, 83.2, 93.2, 82.8, 92.8],
    "SSv2-Small": [44.8, 56.5, 45.5, 56.9, 42.7, 52.4],
}
