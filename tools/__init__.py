"""What is made for the repository: pages, the built-in world, its encoder. Not part of the installed package."""

SHORT = {  # trainings of the tunings and of the study of MA-CLIP, on all boards: SynthAct-Order's own are longer
    "train.accumulate": "2",
    "train.episodes": "100",
}
SHORT_WORDS = " ".join(f"{key}={value}" for key, value in SHORT.items())  # as they are typed
