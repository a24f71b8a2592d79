"""MA-CLIP, table 7: the rows whose encoder was trained on ImageNet (ViT-B/32; its weights are not built in).

Command: fsar-bench run methods=ablations/table7_imagenet   (controls keep the backbone of the dataset; controls=false
leaves them out)
Paper, 5-way 1-shot, Kinetics / SSv2-Small: 75.8 / 38.2, 75.2 / 39.5, 67.2 / 37.3.
"""

rows = [
    "otam backbone=vit_b_32_imagenet",
    "bi_mhm backbone=vit_b_32_imagenet",
    "trx backbone=vit_b_32_imagenet",
]
