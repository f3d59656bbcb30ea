"""Headroom: the most that heads at the attach point could gain, found before any are planned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selfinformed.augmented.network import augment
from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.runtime.files import write_json
from selfinformed.structure.average_precision import Ranking, nan_mean
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import plan
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit

WORTH_IT = 1.0  # points of mAP: less than this and the verdict advises against heads


@dataclass(frozen=True, eq=False)
class Headroom:
    """What could be gained at the attach point, on hold-out data; mAP as shares from 0 to 1.

    Attributes:
        base: the network as it is.
        classifier: after retraining the classifier alone.
        dense: with a wide dense head and no budget, trained as heads would be: about the most any head there could reach.
        width: of that dense head.
        attach: where it read.
        labels, groups: names for what lies where.
    """

    base: Ranking
    classifier: Ranking
    dense: Ranking
    width: int
    attach: str
    labels: LabelSpace
    groups: LabelGroups | None = None

    @property
    def gain(self) -> float:
        """The larger of the two gains in points of mAP (hundredths)."""
        base = self.base.mean_average_precision
        return 100 * (max(self.dense.mean_average_precision, self.classifier.mean_average_precision) - base)

    @property
    def worth_it(self) -> bool:
        """Whether at least one point of mAP is to be had."""
        return self.gain >= WORTH_IT

    @property
    def verdict(self) -> str:
        """One sentence."""
        cheap = 100 * (self.classifier.mean_average_precision - self.base.mean_average_precision)
        where = f"reading {self.attach}"
        if not self.worth_it:
            return (
                f"There is little to gain: heads {where} could add about {max(self.gain, 0):.1f} mAP at most, so heads there are not worth training; "
                "try an earlier attach point, more training data or longer training of the whole network."
            )
        if cheap > 0.7 * self.gain:
            return (
                f"There is headroom, but retraining the classifier alone gains {cheap:+.1f} of at most about {self.gain:+.1f} mAP: do that first; "
                f"heads {where} can add only the rest."
            )
        return (
            f"There is headroom: heads {where} could add about {self.gain:+.1f} mAP at most, of which retraining the classifier alone gains {cheap:+.1f}."
        )

    def by_label(self) -> npt.NDArray[np.float64]:
        """Gain of the wide dense head in average precision for each label [C], NaN without positives."""
        return self.dense.average_precision - self.base.average_precision

    def by_group(self) -> list[dict[str, Any]]:
        """For each group its mean gain in average precision and the share of all gain that lies in it."""
        if self.groups is None:
            return []
        gains = self.by_label()
        total = np.nansum(gains)
        return [
            {
                "group": name, "labels": len(members), "gain": nan_mean(gains[members]),
                "share": float(np.nansum(gains[members]) / total) if total else float("nan"),
            }
            for name, members in zip(self.groups.names, self.groups.members, strict=True)
        ]  # fmt: skip

    def most(self, n: int = 10) -> list[dict[str, Any]]:
        """The labels with the most headroom."""
        gains = self.by_label()
        order = [i for i in np.argsort(-gains, kind="stable") if np.isfinite(gains[i])][:n]
        return [{"label": self.labels.names[i], "base": self.base.average_precision[i], "gain": gains[i]} for i in order]

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict, "worth_it": self.worth_it, "gain": self.gain / 100, "attach": self.attach, "width": self.width,
            "mean_average_precision": {
                "base": self.base.mean_average_precision, "classifier": self.classifier.mean_average_precision,
                "dense": self.dense.mean_average_precision,
            },
            "groups": self.by_group(), "labels": self.most(20),
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self.to_dict())


def probe(
    net: WrappedClassifier,
    train: Examples | FeatureStore,
    holdout: Examples | FeatureStore,
    *,
    groups: LabelGroups | None = None,
    width: int = 256,
    epochs: int = 2,
    top_k: int = 50,
    seed: int = 0,
) -> Headroom:
    """Says before any head is planned how much there is to win at the attach point.

    On cached features it retrains the classifier alone, and with a wide dense head that no budget binds; both are judged on hold-out data.

    Args:
        net: the wrapped network.
        train, holdout: examples, or their cached features.
        groups: says which groups the headroom lies in.
        width: of the dense head.
        epochs: passes over `train`, as `fit` would take.
        top_k: K of mAP@K.
        seed: of the training.
    """
    train = train if isinstance(train, FeatureStore) else FeatureStore.build(net, train)
    holdout = holdout if isinstance(holdout, FeatureStore) else FeatureStore.build(net, holdout)
    retrained = []
    for label_groups in (LabelGroups(net.n_labels, ()), LabelGroups.everything(net.n_labels)):
        aug = augment(net, plan(net, label_groups, hidden=(width,)), seed=seed)
        fit(aug, train, holdout=holdout, epochs=epochs, seed=seed)
        retrained.append(rank(aug, holdout, top_k))
    classifier, dense = retrained
    attach = " and ".join(map(str, net.attach_points))
    return Headroom(rank(net, holdout, top_k), classifier, dense, width, attach, net.labels, groups)

