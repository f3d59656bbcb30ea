"""What equal multiply-adds take in time: kanji's budget base in PyTorch with a dense head, with output units that run where the scores point (the structure
that `make bench-search` found), and with the same heads all run, at 3% more multiply-adds, on test images and one thread.

The heads are untrained, which changes no time; what is chosen depends on the base's scores. Run by `make bench-choosing`; about three minutes.
"""

from __future__ import annotations

import torch
from bases import network_of
from characters import kanji
from common import save
from winning import cached

from selfinformed.augmented.network import augment
from selfinformed.evidence.latency import latency
from selfinformed.training.structures import Builder, Choice

ARMS = {"dense": Choice("dense"), "chosen": Choice("confusions", 48, depth=0, top_groups=8)}


def main() -> None:
    torch.set_num_threads(1)
    data = kanji(1)
    net, examples = network_of("kanji", "budget", data), data.examples("test")
    examples = examples.take(range(0, len(examples), 7))  # of all characters
    holdout = cached(net, lambda: data.examples("holdout"), "kanji-budget/holdout")
    builder = Builder(net, holdout, 0.03)
    rows = []
    for name, choice in ARMS.items():
        structure = builder.structure(choice)
        for ran in (name, *(["chosen, all run"] if structure.is_conditional else [])):
            aug = augment(net, structure.plan, classifier="reinitialise")
            aug.classifier.load_state_dict(net.classifier.state_dict())
            aug.run_conditionally(structure.top_groups if ran == name else None)
            taken = latency(aug, examples, (1, 32, 256), repeats=200)
            rows.append({"arm": ran, "structure": structure.description, **{key: taken[key] for key in ("extra_computation", "rows")}})
            print(f"{ran}: {taken['extra_computation']:.3f}x; " + ", ".join(f"{row['ratio']:.3f}x at {row['batch_size']}" for row in taken["rows"]), flush=True)
    save("choosing", {"seed": 0, "multiply_adds": net.cost.multiply_adds, "threads": 1, "arms": rows})


if __name__ == "__main__":
    main()
