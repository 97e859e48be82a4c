"""What the report says to readers who know neither the field nor this package."""

#: Figures in the order of the table.
FIGURES = {
    "image AUROC": "The chance that an anomalous image scores higher than a normal one, whatever the threshold: "
    "1 is perfect, 0.5 is guessing.",
    "pixel AUROC": "The same for single pixels: how well the anomaly map tells those of defects from all others.",
    "AU-PRO": "The share of each defect that the anomaly map covers, a small defect counting as much as a large one, "
    "on average over all thresholds at which at most 30 % of the normal pixels are marked by mistake: 1 is perfect.",
    "image F1": "Precision (correct among those found) and recall (found among the anomalous) at the threshold, in one "
    "figure: 1 if the anomalous images are found and no others.",
    "pixel F1": "The same for single pixels: how well what is outlined fits the defects.",
}
ITERATION = (
    "The model knows what normal parts look like. It hides parts of an image and inpaints them, that is, fills them "
    "in from what is left; what does not match is suspect. The initial inpainting hides every part of the image "
    "once. Each iteration after it hides only what did not match so far, inpaints that anew, and compares again. A "
    "defect thus no longer disturbs its own inpainting, and what is normal drops out. The iterations end early when "
    "nothing suspect is left, or when what is suspect no longer shrinks."
)
_MAP = (
    "anomaly map: how anomalous each place is. The scale is the same in all pictures. On it the pixel threshold is "
    "marked: what is brighter is outlined as found, unless it merely surrounds a peak."
)
RESULT = (
    "image: as the model sees it.",
    "image, outlined: in red what was found, in light blue the true defect as marked in the data set, if there is one.",
    _MAP,
)
_RECONSTRUCTION = (
    "reconstruction: what the model expects of the image. Models that compare features of a network instead of "
    "pixels, as FeatureI3AD does, take no score from this picture: it is a blurred sketch of what they expect."
)
ITERATIONS = (
    "hidden: what the model did not see, in blue; the initial inpainting hides four times, of which one is shown.",
    _RECONSTRUCTION,
    "difference: where image and expectation differ, on the scale of the anomaly map.",
)
#: Groups of images and what they are.
GROUPS = {
    "Missed": "anomalous images that the model calls normal, the lowest score first",
    "False alarms": "normal images that the model calls anomalous, the highest score first",
    "Found": "anomalous images that the model calls anomalous, from the lowest score to the highest",
    "Normal": "normal images that the model calls normal, those nearest to the threshold first",
}
