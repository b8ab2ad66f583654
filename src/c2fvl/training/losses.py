"""Losses on logits.

The loss of C2FVL, LViT and UCTransNet, which have one logit for the lesion, is half a Dice loss and half a balanced
cross-entropy; C2FVL adds the alignment of its side maps. Networks with a logit for each class have the losses of
TransUNet (Chen et al., 2021): a Dice loss over batch and classes, and the plain cross-entropy. MedT has only the
cross-entropy. Losses are computed in float32, whatever the precision of the network.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from c2fvl.config import LossConfig
from c2fvl.extensions import find_extension, is_extension
from c2fvl.models.output import FindingLogits, Loss, Output
from c2fvl.reports.findings import FIRST_ZONE, TRUST

DICE_SMOOTHING = 4e-5
CLASS_DICE_SMOOTHING = 1e-5
COUNT_SMOOTHING = 1e-12


def build_loss(config: LossConfig) -> Loss:
    """Return the loss that the settings describe; its terms are named as in the log.

    Raises `ValueError` for weights that are all 0, and for a loss of the user's own that is not there.
    """
    if config.custom:
        return _custom_loss(config.custom)
    if not any((config.dice, config.cross_entropy, config.alignment, config.side_maps)):
        raise ValueError("all weights of the loss are 0, so nothing would be learned; set loss.dice=0.5, for example")

    def loss(
        output: Output, mask: Tensor, text: Tensor | None = None, findings: Tensor | None = None
    ) -> dict[str, Tensor]:
        dice, cross_entropy = _overlap_and_entropy(output.logits, mask, balanced=config.balanced)
        terms = {"dice_loss": dice, "cross_entropy": cross_entropy}
        total = config.dice * dice + config.cross_entropy * cross_entropy
        if config.alignment and output.aux:  # a network without side maps has nothing to align
            terms["alignment"] = alignment_loss(output.aux)
            total = total + config.alignment * terms["alignment"]
        if config.side_maps:
            terms["side_maps"] = _side_map_loss(output.aux, mask, balanced=config.balanced)
            total = total + config.side_maps * terms["side_maps"]
        if config.reading or config.agreement:
            if output.findings is None or text is None or findings is None:
                raise ValueError(
                    "the network predicts no findings from the image; set loss.reading=0 and loss.agreement=0 for it"
                )
            terms["reading"] = findings_loss(output.findings, findings)
            terms["agreement"] = agreement_loss(output.findings, text[:, 0], findings)
            total = total + config.reading * terms["reading"] + config.agreement * terms["agreement"]
        return {"loss": total, **terms}

    return loss


def _custom_loss(name: str) -> Loss:
    """Return a loss of the user's own, "package.module:function", whose module was imported before."""
    if not is_extension(name):
        raise ValueError(f"loss.custom is {name!r}; expected package.module:function")
    custom = find_extension(name)
    if not callable(custom):
        raise ValueError(f"loss.custom={name} is of the type {type(custom).__name__}; expected a function")
    try:
        inspect.signature(custom).bind(None, None, None, None)
    except TypeError as error:
        raise ValueError(
            f"loss.custom={name} is called as loss(output, mask, text, findings), which it does not take: {error}"
        ) from error

    def loss(
        output: Output, mask: Tensor, text: Tensor | None = None, findings: Tensor | None = None
    ) -> dict[str, Tensor]:
        terms = custom(output, mask, text, findings)
        if (
            not isinstance(terms, dict)
            or "loss" not in terms
            or not all(isinstance(term, Tensor) and term.ndim == 0 for term in terms.values())
        ):
            raise ValueError(
                f"loss.custom={name} returned {type(terms).__name__} {str(terms)[:60]}; expected a dictionary of "
                'tensors of one number, with "loss" among them'
            )
        return terms

    return loss


def findings_loss(predicted: FindingLogits, findings: Tensor) -> Tensor:
    """Return the cross-entropy of the predicted zones, number and side against the known findings of the report.

    findings (B, 9); the mean over the zones, plus a tenth of the means for number and side.
    """
    zones = _mean_known(
        lambda target: functional.binary_cross_entropy_with_logits(predicted.zones, target, reduction="none"),
        findings[:, FIRST_ZONE:TRUST],
    )
    number = _mean_known(_entropy_of_classes(predicted.number), findings[:, 1])
    side = _mean_known(_entropy_of_classes(predicted.side), findings[:, 0])
    return zones + 0.1 * (number + side)


def agreement_loss(predicted: FindingLogits, given: Tensor, findings: Tensor) -> Tensor:
    """Return the cross-entropy of the predicted agreement with each finding against whether the finding is true.

    given and findings (B, 9): the report that the network was given, and the true one. Findings that either leaves
    unknown are left out, and those given with a trust of 0 or 1, from which there is nothing to learn.
    """
    said, true = given[:, :TRUST], findings[:, :TRUST]
    certain = predicted.agreement.isinf()
    is_true = torch.where(said.isnan() | true.isnan() | certain, torch.nan, (said == true).float())
    logits = predicted.agreement.masked_fill(certain, 0.0)
    return _mean_known(
        lambda target: functional.binary_cross_entropy_with_logits(logits, target, reduction="none"), is_true
    )


def _entropy_of_classes(logits: Tensor) -> Callable[[Tensor], Tensor]:
    last = logits.shape[1] - 1
    return lambda target: functional.cross_entropy(logits, target.long().clamp(0, last), reduction="none")


def _mean_known(cost: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """Return the mean cost over the known targets; 0 if none is known."""
    known = ~target.isnan()
    costs = cost(target.nan_to_num(0.0))
    return torch.where(known, costs, torch.zeros_like(costs)).sum() / known.sum().clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 − Dice with squares in the denominator, per image over all pixels, averaged over the batch.

    logits and target (B, H, W). The smoothing of 4e-5 equals the published 1e-5 after its weights of one half.
    """
    probability, target = logits.float().sigmoid().flatten(1), target.float().flatten(1)
    intersection = (probability * target).sum(1)
    size = probability.square().sum(1) + target.square().sum(1)
    return (1 - (2 * intersection + DICE_SMOOTHING) / (size + DICE_SMOOTHING)).mean()


def balanced_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy in which lesion and background each have half of the weight, over the whole batch.

    It is computed from logits: the published form clips logarithms at −100 and loses its gradient there.
    """
    logits, target = logits.float(), target.float()
    cost = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    background = 1 - target
    return 0.5 * (cost * target).sum() / (target.sum() + COUNT_SMOOTHING) + 0.5 * (cost * background).sum() / (
        background.sum() + COUNT_SMOOTHING
    )


def class_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 − Dice of the softmax with squares in the denominator, averaged over all classes, background included.

    logits (B, C, H, W), target (B, H, W) integers. Each class is counted over the whole batch (TransUNet).
    """
    probability = logits.float().softmax(dim=1)
    truth = functional.one_hot(target, logits.shape[1]).movedim(-1, 1).float()
    intersection = (probability * truth).sum((0, 2, 3))
    size = probability.square().sum((0, 2, 3)) + truth.sum((0, 2, 3))
    return (1 - (2 * intersection + CLASS_DICE_SMOOTHING) / (size + CLASS_DICE_SMOOTHING)).mean()


def alignment_loss(side_maps: tuple[Tensor, ...]) -> Tensor:
    """Return half the sum of 1 − cosine between the finest side map and each coarser one, averaged over the batch."""
    if len(side_maps) < 2:
        raise ValueError(
            f"the alignment needs at least two side maps, but the network returned {len(side_maps)}; "
            "set loss.alignment=0 for this network"
        )
    finest, *coarser = (side_map.float().flatten(1) for side_map in side_maps)
    distances = [1 - functional.cosine_similarity(finest, other, dim=1, eps=1e-8) for other in coarser]
    return 0.5 * torch.stack(distances).sum(0).mean()


def _side_map_loss(side_maps: tuple[Tensor, ...], mask: Tensor, *, balanced: bool) -> Tensor:
    """Return the mean over the side maps of their own Dice and cross-entropy against the mask (deep supervision)."""
    if not side_maps:
        raise ValueError("the network returned no side maps; set loss.side_maps=0 for this network")
    losses = [_overlap_and_entropy(side_map, mask, balanced=balanced) for side_map in side_maps]
    return torch.stack([0.5 * dice + 0.5 * cross_entropy for dice, cross_entropy in losses]).mean()


def _overlap_and_entropy(logits: Tensor, mask: Tensor, *, balanced: bool) -> tuple[Tensor, Tensor]:
    """Return the Dice loss and the cross-entropy of a network with one logit, or with one for each class."""
    if logits.shape[-2:] != mask.shape[-2:]:
        raise ValueError(
            f"the logits have the shape {tuple(logits.shape)} and the mask {tuple(mask.shape)}; expected "
            "(B, C, H, W) and (B, H, W)"
        )
    if logits.shape[1] == 1:
        if balanced:
            return dice_loss(logits[:, 0], mask), balanced_cross_entropy(logits[:, 0], mask)
        plain = functional.binary_cross_entropy_with_logits(logits[:, 0].float(), mask.float())
        return dice_loss(logits[:, 0], mask), plain
    classes = mask.long()
    return class_dice_loss(logits, classes), functional.cross_entropy(logits.float(), classes)
