"""What averaging with the mirrored image is worth to a FilmFirst, for twice the time.

    python benchmarks/mirrored.py MODEL ROOT [--split val] [--trust 0.1 --trust 1] [--threads 1]

Prints Dice per image on the film's own grid without a report and with its own at each trust: of the mask as it is
predicted, and of the mean of its probabilities and those of the mirrored film with its mirrored report.
"""

import argparse
import dataclasses

import torch

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.data.batches import EpochBatches, iterate_batches
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.part import Part
from c2fvl.inference.cases import dataset_of
from c2fvl.inference.masks import to_labels, to_original
from c2fvl.inference.torch_engine import inference_form
from c2fvl.metrics.intervals import Bootstrap
from c2fvl.metrics.overlap import dice, overlap
from c2fvl.reports.findings import TRUST


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("root")
    parser.add_argument("--split", default="val")
    parser.add_argument("--trust", type=float, action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    images = dataset_of(model, Part(options.root, options.split))
    mirrored = CaseDataset(
        [
            case if case.report is None else dataclasses.replace(case, report=case.report.mirrored())
            for case in images.cases
        ],
        images.config,
    )
    network = inference_form(model, batch_size=8)
    given = [None, *(options.trust or [1.0])]
    scores: dict[tuple[float | None, str], list[float]] = {}
    pairs = zip(
        *(iterate_batches(part, EpochBatches(len(images), 8), workers=0) for part in (images, mirrored)), strict=True
    )
    with torch.inference_mode():
        for batch, turned in pairs:
            seen, seen_turned = network.encode_image(batch.image), network.encode_image(batch.image.flip(-1))
            for trust in given:
                alone = network.decode(seen, _told(batch.text, trust)).logits.sigmoid()[:, 0]
                other = network.decode(seen_turned, _told(turned.text, trust)).logits.sigmoid()[:, 0].flip(-1)
                for name, probabilities in (("as it is", alone), ("averaged", (alone + other) / 2)):
                    for values, mask in zip(probabilities.numpy(), batch.original_masks, strict=True):
                        labels = to_labels(to_original(values, mask.shape))
                        scores.setdefault((trust, name), []).append(dice(overlap(labels, mask)))
    bootstrap = Bootstrap([case.group for case in images.cases])
    for trust in given:
        alone, both = (torch.tensor(scores[trust, name]).numpy() for name in ("as it is", "averaged"))
        gain = bootstrap.means(both - alone)[0]
        print(
            f"{'no report' if trust is None else f'trust {trust:g}'}: {100 * alone.mean():.2f}, averaged "
            f"{100 * both.mean():.2f}, {100 * gain.value:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})"
        )


def _told(text: torch.Tensor, trust: float | None) -> torch.Tensor:
    """Return the findings (B, 1, 9) with a trust, or none of them."""
    if trust is None:
        return torch.full_like(text, torch.nan)
    text = text.clone()
    text[..., TRUST] = trust
    return text


if __name__ == "__main__":
    main()
