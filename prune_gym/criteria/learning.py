"""Criteria that train a copy of the network for a few steps, filters coming and going."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from prune_gym.criteria.base import CRITERIA, Evidence, Scores
from prune_gym.criteria.connectivity import by_filter, consumers
from prune_gym.criteria.masking import FilterMasking, use_batch_statistics

BATCH = 32  # images a step
GIBBS_STEPS = 48
GIBBS_RATE = 0.01  # of plain gradient descent
COLDNESS = (1.0, 100.0)  # inverse temperature of the masks, first and last
DROPPED = 0.5  # quantile of energies at which a filter is as often on as off
SWEEPS = 3  # how often every filter enters as a candidate
CANDIDATES = 0.25  # share of a group that enters in a round
KEPT = 0.5  # share of a group that outlives a round
ROUND_STEPS = 4
RELCHANET_RATE = 0.01


@CRITERIA.register
def gibbs(evidence: Evidence) -> Scores:
    """Energy that is left after training under annealed random masks (Gibbs pruning, 2006.04981).

    Paper (Labach and Valaee 2020): masks x are drawn at every training step from a Gibbs
    distribution p(x) ~ exp(-beta H(x)) whose energy is made of squared weights, so that a weight
    is dropped with chance 1 / (1 + exp(beta (w^2 - Q_p))), Q_p being the p-quantile of w^2 in its
    layer, or of the summed squares of a filter. beta rises from training as regularisation to a
    fixed mask at the end. (Abstract, introduction and the published code for single weights were
    at hand.)

    Here: a copy of the trained network is trained for 48 steps of gradient descent (32 images,
    rate 0.01), a mask per step and filter, beta from 1 to 100, p = 0.5. A filter's energy is the
    sum of squares of all that produces it, divided by the mean of its group, so that beta means the
    same in every layer. A filter that is off is cut where it is used, so that shifts of norms do
    not outlive it. The score is the energy at the end: at zero temperature the mask keeps the
    filters of the highest energy, for every p. The filter of the highest energy in a group is on in
    every mask, so that no layer is ever cut off. With ``structure="weight"`` masks and energies are
    the paper's, of single weights, but for the same division.

    Raises:
        CriterionError: no parameter of the network can be trained; filters that no layer takes in.
    """
    evidence.need_gradients()
    masking = FilterMasking(evidence)
    use_batch_statistics(evidence)
    colder = np.geomspace(*COLDNESS, GIBBS_STEPS)
    batches = evidence.batches(GIBBS_STEPS, BATCH)
    for beta, (images, labels) in zip(colder, batches, strict=True):
        keep = [_draw(evidence.generator, energy, beta) for energy in _energies(evidence)]
        evidence.network.zero_grad(set_to_none=True)
        with masking.applied(masking.factors(keep)):
            evidence.loss(images, labels).backward()  # type: ignore[no-untyped-call]
        _descend(evidence, GIBBS_RATE)
    return _energies(evidence)


def _descend(evidence: Evidence, rate: float) -> None:
    """One step of plain gradient descent, by the gradients that are there."""
    with torch.no_grad():
        for parameter in evidence.network.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=rate)


def _energies(evidence: Evidence) -> list[NDArray[np.float64]]:
    """Sum of squares of what produces each filter / mean of the group, (n_filters,) per group."""
    squares = [(rows**2).sum(axis=1) for rows in evidence.rows(evidence.parameters)]
    return [square / max(float(square.mean()), np.finfo(float).tiny) for square in squares]


def _draw(
    generator: np.random.Generator, energy: NDArray[np.float64], beta: float
) -> NDArray[np.float64]:
    """A mask from the Gibbs distribution, (n_filters,), 1 = on; never all off."""
    height = np.clip(beta * (energy - np.quantile(energy, DROPPED)), -50.0, 50.0)
    keep = (generator.random(len(energy)) < 1.0 / (1.0 + np.exp(-height))).astype(np.float64)
    keep[int(np.argmax(energy))] = 1.0
    return keep


@CRITERIA.register
def relchanet(evidence: Evidence) -> Scores:
    """Change that a filter brings about when it enters anew (RelChaNet, 2410.02344).

    Paper (Zimmer 2024): feature selection in a dense network. Its input layer holds the features
    that are kept and random candidates; gradients of the first layer's weights are summed over some
    mini-batches, the L1 norm of each feature's sum, standardised over the features present, is its
    relative change score, the lowest are pruned, and others regrow at random. (Abstract,
    introduction and a review were at hand.)

    Here: the filters of a group are the input neurons of the layers that take them in, which may be
    linear or convolutions; where the first group's filters are the pixels, as behind a linear layer
    that is the identity, this selects features as in the paper. All groups take part at once, on a
    copy of the trained network. A round: a quarter of the group enters as candidates, those that
    entered least often first, with outgoing weights of zero; 4 steps of gradient descent (32
    images, rate 0.01) while the gradients by outgoing weights are summed; scores; then the half of
    the group with the highest latest scores stays on, and the rest is off (outgoing weights zero).
    Every filter enters 3 times. A filter's score is the mean of the scores of the rounds in which
    it entered: filters are compared by the same event, and not by how long they have been on.

    Raises:
        CriterionError: no parameter of the network can be trained; filters that no layer takes in;
            ``structure="weight"``.
    """
    evidence.need_gradients()
    evidence.need_filters()
    masking = FilterMasking(evidence)
    use_batch_statistics(evidence)
    sizes = [group.n_filters for group in evidence.groups]
    on = [np.ones(size, dtype=bool) for size in sizes]
    entries = [np.zeros(size, dtype=np.int64) for size in sizes]
    latest: list[NDArray[np.float64]] = [np.zeros(size) for size in sizes]
    sums: list[NDArray[np.float64]] = [np.zeros(size) for size in sizes]
    while min(int(count.min()) for count in entries) < SWEEPS:
        candidates = [_candidates(evidence.generator, count) for count in entries]
        masking.apply(masking.factors([(~fresh).astype(np.float64) for fresh in candidates]))
        on = [own | fresh for own, fresh in zip(on, candidates, strict=True)]
        changes = _changes(evidence, masking, on)
        for index, fresh in enumerate(candidates):
            present = changes[index][on[index]]
            spread = float(present.std())
            scores = (changes[index] - present.mean()) / (spread if spread > 0 else 1.0)
            latest[index][on[index]] = scores[on[index]]
            sums[index][fresh] += scores[fresh]
            entries[index] += fresh
            n_kept = max(1, round(KEPT * sizes[index]))
            ranked = np.argsort(np.where(on[index], -latest[index], np.inf), kind="stable")
            on[index] = np.isin(np.arange(sizes[index]), ranked[:n_kept]) & on[index]
        masking.apply(masking.factors([own.astype(np.float64) for own in on]))
    return [total / count for total, count in zip(sums, entries, strict=True)]


def _candidates(generator: np.random.Generator, entries: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Filters that enter next, (n_filters,): those that entered least often, ties at random."""
    order = np.lexsort((generator.random(len(entries)), entries))
    fresh = np.zeros(len(entries), dtype=bool)
    fresh[order[: max(1, round(CANDIDATES * len(entries)))]] = True
    return fresh


def _changes(
    evidence: Evidence, masking: FilterMasking, on: list[NDArray[np.bool_]]
) -> list[NDArray[np.float64]]:
    """Train for a round; per group the L1 norm of each filter's summed gradients, (n_filters,)."""
    factors = masking.factors([own.astype(np.float64) for own in on])
    parameters = evidence.parameters
    sums = {name: torch.zeros_like(parameters[name]) for name in factors}
    for images, labels in evidence.batches(ROUND_STEPS, BATCH):
        evidence.network.zero_grad(set_to_none=True)
        with masking.applied(factors):
            evidence.loss(images, labels).backward()  # type: ignore[no-untyped-call]
        for name, total in sums.items():
            slope = parameters[name].grad
            if slope is not None:
                total += slope
        _descend(evidence, RELCHANET_RATE)
    changes = []
    for group in evidence.groups:
        sides = consumers(evidence.network, group)
        parts = [np.abs(by_filter(sums[side.cut.tensor], side.cut)).sum(axis=1) for side in sides]
        changes.append(np.sum(parts, axis=0))
    return changes
