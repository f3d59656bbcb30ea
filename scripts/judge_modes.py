"""What 8-bit heads and conditional evaluation cost in quality on a run: `python scripts/judge_modes.py runs/demo`."""

import sys

import selfinformed as si
from selfinformed.pipeline.config import read_config
from selfinformed.pipeline.run import Run
from selfinformed.training import features

run = Run(read_config(sys.argv[1]))
aug, test = run.augmented(), run.features("test")
print("base        ", si.evaluate(run.net, test))
print("full        ", si.evaluate(aug, test))
for top_groups in (0, 1, 2, 3, len(aug.plan.groups)):
    with aug.conditional(top_groups):
        print(f"top_groups {top_groups}", si.evaluate(aug, test))
features._FEATURES_AT_ONCE = 8  # the largest batch that runs in 8 bits
with aug.quantized_heads():
    print("in 8 bits   ", si.evaluate(aug, test))
features._FEATURES_AT_ONCE = 512
again = si.augment(run.net, aug.plan)
with again.conditional(2):
    si.fit(again, run.features("train"), holdout=run.features("holdout"), epochs=run.config.epochs)
    print("trained so 2", si.evaluate(again, test))
