"""MA-CLIP, table 4: frozen, fully fine-tuned, and the three adaptations one after the other.

Command: fsar-bench run methods=ablations/table4
Paper, tunable parameters: 3.15, 90.99, 7.94, 15.04, 18.54 M.
"""

rows = [
    "ma_clip method.multimodal=false method.temporal=false method.joint=false",
    "ma_clip_full",
    "ma_clip method.temporal=false method.joint=false",
    "ma_clip method.joint=false",
    "ma_clip",
]
published = {  # ViT-B/32, 5-way 1-shot; SSv2-Full from tables 3 and 8
    "SSv2-Small": [42.3, 53.9, 54.0, 55.9, 56.5],
    "SSv2-Full": [46.5, 59.1, None, None, 61.9],
}
