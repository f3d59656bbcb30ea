"""A text classifier of Hugging Face transformers, called with keyword arguments; its label names come from id2label.

The sentences are made of invented words, so that nothing is downloaded: each topic has words of its own and shares many with its relatives.
pip install 'selfinformed[transformers,onnx]'; python examples/transformers_text.py
"""

import tempfile

import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

import selfinformed as si

N_LABELS, LENGTH, WORDS = 32, 24, 800


def write(n, seed):
    """Token numbers [n, 24] about one of 32 topics in 8 fields, as the model takes them, and the topics."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randint(N_LABELS, (n,), generator=generator)
    field = 100 + 40 * (topic // 4)[:, None] + torch.randint(40, (n, LENGTH), generator=generator)
    own = 450 + 10 * topic[:, None] + torch.randint(10, (n, LENGTH), generator=generator)
    common = torch.randint(1, 100, (n, LENGTH), generator=generator)
    kind = torch.rand(n, LENGTH, generator=generator)
    ids = torch.where(kind < 0.1, own, torch.where(kind < 0.35, field, common))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, topic


def main():
    torch.manual_seed(0)
    names = {i: f"field {i // 4}, topic {i % 4}" for i in range(N_LABELS)}
    config = BertConfig(vocab_size=WORDS, hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, id2label=names)
    config.label2id = {name: i for i, name in names.items()}
    train, holdout, test = (write(n, seed) for n, seed in ((4800, 1), (1000, 2), (1000, 3)))
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):  # two passes: a base on a budget
        for rows in torch.arange(len(train[1])).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(**{k: v[rows] for k, v in train[0].items()}).logits, train[1][rows]).backward()
            optimizer.step()

    net = si.wrap(model.eval(), {k: v[:2] for k, v in train[0].items()})
    print(net)
    train, holdout, test = (si.open_dataset(split, net.labels) for split in (train, holdout, test))
    groups = si.cluster(si.measure(net, holdout), n_groups=8)
    print("mixed up:", "; ".join(net.labels.names[m] for m in groups.members[0]))
    aug = si.augment(net, si.plan(net, groups, budget=0.03))
    si.fit(aug, train, epochs=4)
    print("base      ", si.evaluate(net, test))
    print("augmented ", si.evaluate(aug, test))
    with tempfile.TemporaryDirectory() as folder:
        check = si.export_onnx(aug, f"{folder}/model.onnx", test.read(range(100)))
        print(f"exported: logits differ by {check.max_difference:.1g} at most, the same best label in {check.top1_agreement:.0%}")


if __name__ == "__main__":
    main()
