"""MA-CLIP, table 7: the rows whose encoder was trained on ImageNet (ViT-B/32; its weights are not built in).

Command: fsar-bench run methods=ablations/table7_imagenet   (controls keep the backbone of the dataset; controls=false
leaves them out)
"""

rows = [
    "otam backbone=vit_b_32_imagenet",
    "bi_mhm backbone=vit_b_32_imagenet",
    "trx backbone=vit_b_32_imagenet",
]
published = {"Kinetics-100": [75.8, 75.2, 67.2], "SSv2-Small": [38.2, 39.5, 37.3]}  # ViT-B/32, 5-way 1-shot
