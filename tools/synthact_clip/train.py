"""Train the small CLIPs of the built-in data: `python -m tools.synthact_clip.train --words all|train [--work DIR] [--steps N]`.

A contrastive image-text model (open_clip) on fresh renderings of SynthAct: seeds that no shipped clip uses, captions that
are composed and noisy as those of the web are. `--words all` renders classes of all splits, so that the model knows the words
of test classes as real CLIP knows those of benchmarks; `--words train` renders those of the train split alone. Resumable:
state is saved every 50 steps, batches are drawn by step number. Writes the weights (float16 safetensors) into the package,
and the log, with what was measured on unseen renderings every 250 steps, beside this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from tools.synthact.classes import action_classes
from tools.synthact_clip.renderings import noisy, render

MODELS = {"all": "synthact_clip", "train": "synthact_clip_strict"}
HERE = Path(__file__).parent
BUILTIN = Path(__file__).parents[2] / "fsar_bench" / "backbones" / "builtin"
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
TRAIN_SEED, UNSEEN_SEED = 1, 2  # the shipped clips use seed 0
SAVE_EVERY, REPORT_EVERY = 50, 250


def pixels(frames: np.ndarray) -> torch.Tensor:
    """uint8 `[B, H, W, 3]` to normalised float `[B, 3, H, W]`."""
    return (torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE over `[B, C]` unit features; `same` `[B, B]` marks equal captions, which share the target."""
    logits = scale * image @ text.T
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def learning_rate(step: int, steps: int, peak: float) -> float:
    warm = 60
    return (
        peak * (step + 1) / warm
        if step < warm
        else 0.5 * peak * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
    )


@torch.inference_mode()
def report(model: torch.nn.Module, tokenizer, folders: dict[str, Path]) -> dict[str, float]:
    """Retrieval among 500 pairs with different captions and, per group, 5-way accuracy of text alone, by split, in percent."""
    model.eval()
    out = {}
    for split, folder in folders.items():
        captions = json.loads((folder / "captions.json").read_text())
        frames = np.load(folder / "frames.npy", mmap_mode="r")
        image = F.normalize(
            torch.cat([model.encode_image(pixels(part)) for part in np.array_split(frames, 20)]), dim=-1
        )
        first: dict[str, int] = {}
        for index in np.random.default_rng(0).permutation(len(captions)):
            first.setdefault(captions[index][0], int(index))
        picked = sorted(first.values())[:500]
        text = F.normalize(model.encode_text(tokenizer([captions[i][0] for i in picked])), dim=-1)
        similarity = image[picked] @ text.T
        truth = torch.arange(len(picked))
        out[f"{split}_image_to_text_r1"] = 100 * (similarity.argmax(1) == truth).float().mean().item()
        out[f"{split}_text_to_image_r1"] = 100 * (similarity.argmax(0) == truth).float().mean().item()
        out[f"{split}_pairs"] = len(picked)
        clips = image.view(-1, 3, image.shape[-1]).mean(1)
        names = [captions[i][1] for i in range(0, len(captions), 3)]
        for group in ("order", "scene"):
            classes = [c for c in action_classes() if (c.split, c.group) == (split, group)]
            number = {c.name: i for i, c in enumerate(classes)}
            text = F.normalize(model.encode_text(tokenizer([f"a photo of {c.text}" for c in classes])), dim=-1)
            kept = [i for i, name in enumerate(names) if name in number]
            truth = torch.tensor([number[names[i]] for i in kept])
            out[f"{split}_{group}_text"] = 100 * five_way(clips[kept] @ text.T, truth)
    model.train()
    return out


def five_way(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """Accuracy over all choices of four other classes: `scores` `[M, N]`, `truth` `[M]` the right class, N > 5."""
    lower = (scores < scores.gather(1, truth[:, None])).sum(1)
    return sum(math.comb(int(n), 4) for n in lower) / math.comb(scores.shape[1] - 1, 4) / len(truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--words", choices=list(MODELS), required=True, help="splits whose classes are rendered: all, or train"
    )
    parser.add_argument("--work", type=Path, default=Path("work_dirs/synthact_clip"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--per-class", type=int, default=180)
    parser.add_argument("--stills", type=int, default=12_000)
    args = parser.parse_args()
    name, splits = MODELS[args.words], ("train", "val", "test")
    open_clip.add_model_config(BUILTIN)
    size = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    shown = splits if args.words == "all" else ("train",)
    corpus, work = args.work / f"corpus_{args.words}", args.work / name
    per_class = args.per_class * len(action_classes()) // len([c for c in action_classes() if c.split in shown])
    render(corpus, seed=TRAIN_SEED, size=size, splits=shown, per_class=per_class, stills=args.stills)
    unseen = {split: args.work / f"unseen_{split}" for split in splits}
    for split, folder in unseen.items():
        render(folder, seed=UNSEEN_SEED, size=size, splits=(split,), per_class=20, stills=0)
    work.mkdir(exist_ok=True)

    torch.manual_seed(0)
    model, tokenizer = open_clip.create_model(name), open_clip.get_tokenizer(name)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    captions = noisy([caption for caption, _ in json.loads((corpus / "captions.json").read_text())], TRAIN_SEED)
    frames = np.load(corpus / "frames.npy", mmap_mode="r")
    unique = sorted(set(captions))
    number = {text: i for i, text in enumerate(unique)}
    caption_of = torch.tensor([number[text] for text in captions])
    tokens = tokenizer(unique)
    state, start, rows = work / "state.pt", 0, []
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start, rows = saved["step"], saved["rows"]
    began = time.time()
    for step in range(start, args.steps):
        rng = np.random.default_rng([TRAIN_SEED, step])
        picked = np.sort(rng.choice(len(captions), args.batch, replace=False))
        ids = caption_of[picked]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            image, text = model.encode_image(pixels(frames[picked])), model.encode_text(tokens[ids])
            image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        same = (ids[:, None] == ids[None]).float()
        loss = contrastive_loss(image, text, model.logit_scale.exp().clamp(max=100), same)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = step + 1 == args.steps
        if (step + 1) % REPORT_EVERY == 0 or last:
            row = {"step": step + 1, "loss": round(loss.item(), 4)}
            row |= {k: round(v, 1) for k, v in report(model, tokenizer, unseen).items()}
            rows.append(row)
            print(f"{(time.time() - began) / (step + 1 - start):.2f} s a step", row, flush=True)
        if (step + 1) % SAVE_EVERY == 0 or last:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "rows": rows}
            torch.save(saved, state.with_suffix(".tmp"))
            os.replace(state.with_suffix(".tmp"), state)
    known = torch.zeros(model.token_embedding.num_embeddings, 1)
    known[tokens.unique()] = 1  # words never met mean nothing, rather than what they meant at random
    model.token_embedding.weight.data *= known
    weights = {k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    save_file(weights, BUILTIN / f"{name}.safetensors")
    with (HERE / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(captions)} frames of {len({*caption_of.tolist()})} captions, weights in {BUILTIN}")


if __name__ == "__main__":
    main()
