"""MA-CLIP, table 7: OTAM, Bi-MHM and TRX, alone on the fine-tuned image encoder and inside MA-CLIP.

Command: fsar-bench run methods=ablations/table7   (the rows on an ImageNet encoder: methods=ablations/table7_imagenet)
Paper, ViT-B/32, 5-way 1-shot, Kinetics / SSv2-Small:
83.7 / 44.8, 93.5 / 56.5, 83.2 / 45.5, 93.2 / 56.9, 82.8 / 42.7, 92.8 / 52.4.
"""

rows = ["otam", "ma_clip", "bi_mhm", "ma_clip matcher=BiMHM", "trx", "ma_clip matcher=TRX"]
