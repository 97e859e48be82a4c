"""Plots over the images of a test set, as matplotlib figures."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import auc, precision_recall_curve, roc_curve

KINDS = (("normal", "#2f7ebc"), ("anomalous", "#d1495b"))


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.3), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def score_histogram(score: np.ndarray, label: np.ndarray, threshold: float) -> Figure:
    """Scores ``(N,)`` of normal and anomalous images, and the threshold between them."""
    figure, axes = _axes("Scores of the test images", "score of an image", "images")
    edges = np.linspace(min(score.min(), threshold), max(score.max(), threshold), 31)
    for kind, (name, colour) in enumerate(KINDS):
        axes.hist(score[label == kind], edges.tolist(), alpha=0.6, label=name, color=colour)
    axes.axvline(threshold, color="black", linestyle="--", label="threshold")
    # "best" by name, here and below: as a mere default it warns where the machine is busy
    axes.legend(loc="best")
    return figure


def roc(score: np.ndarray, label: np.ndarray, threshold: float) -> Figure:
    """Share of anomalous images found against share of false alarms, for every threshold; the one in use as a point."""
    false, true, _ = roc_curve(label, score)
    figure, axes = _axes(
        f"ROC, area under it (AUROC) {auc(false, true):.3f}",
        "false alarms among normal images",
        "found among anomalous images",
    )
    axes.plot(false, true, color=KINDS[1][1])
    found = score > threshold
    axes.plot(found[label == 0].mean(), found[label == 1].mean(), "ko", label="at the threshold")
    axes.legend(loc="lower right")
    return figure


def precision_recall(score: np.ndarray, label: np.ndarray) -> Figure:
    """Precision against recall."""
    precision, recall, _ = precision_recall_curve(label, score)
    figure, axes = _axes(
        "Precision and recall",
        "recall: found among anomalous images",
        "precision: correct among found",
    )
    axes.plot(recall, precision, color=KINDS[1][1])
    axes.set_ylim(0, 1.02)
    return figure


def by_iterations(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Figures, such as AUROC, after 0, 1, 2, ... iterations."""
    figure, axes = _axes("Accuracy after each iteration", "iterations after the initial inpainting", "AUROC")
    for name, values in curves.items():
        axes.plot(values, marker="o", label=name)
    axes.set_xticks(range(max(map(len, curves.values()))))
    axes.legend(loc="best")
    return figure


def iterations_used(iterations: np.ndarray, label: np.ndarray) -> Figure:
    """How many iterations ``(N,)`` normal and anomalous images took."""
    figure, axes = _axes("Iterations used", "iterations after the initial inpainting", "share of images")
    every = np.arange(iterations.max() + 1)
    for kind, (name, colour) in enumerate(KINDS):
        of_kind = iterations[label == kind]
        share = [(of_kind == count).sum() / max(1, of_kind.size) for count in every]
        axes.bar(every + 0.4 * kind - 0.2, share, 0.4, label=name, color=colour)
    axes.set_xticks(every)
    axes.legend(loc="best")
    return figure


def accuracy_against_latency(names: Sequence[str], milliseconds: Sequence[float], auroc: Sequence[float]) -> Figure:
    """One point a model: better is higher, faster is further left."""
    figure, axes = _axes("Accuracy and latency", "milliseconds an image in OpenVINO", "image AUROC")
    axes.set_xscale("log")
    for name, x, y in zip(names, milliseconds, auroc, strict=True):
        axes.plot(x, y, "o")
        axes.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    return figure
