"""Time to predict 20 labels against the time to predict one, with the published MLP head.

python benchmarks/head_labels.py [--objects 20000]
"""

import argparse

import torch
from _common import alternated, header

from astroclip_train.heads import MLPHead


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--objects", type=int, default=20000)
    chosen = options.parse_args()
    header()
    features = torch.randn(chosen.objects, 768)
    heads = {k: MLPHead(768, [f"label{i}" for i in range(k)]).eval() for k in (1, 20)}

    def run(head: MLPHead):
        def predict() -> None:
            with torch.no_grad():
                for part in features.split(1024):
                    head.predict(part)

        return predict

    timings = alternated({str(k): run(h) for k, h in heads.items()}, n=5)
    for k in heads:
        print(f"{k:2d} labels of {chosen.objects:,} objects: {timings[str(k)]}")
    print(f"ratio: {timings['20'].median / timings['1'].median:.2f}")


if __name__ == "__main__":
    main()
