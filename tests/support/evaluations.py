"""An evaluation with outcomes written by hand."""

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier, Outcome
from advrush_tf.attacks.geometry import Radius
from advrush_tf.attacks.sanity_checks import Code, Finding
from advrush_tf.attacks.sanity_probes import Probed
from advrush_tf.attacks.series import Progress
from advrush_tf.data.array_examples import ArrayExamples
from advrush_tf.data.dataset import ImageDataset
from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.runs.evaluation import AttackResult, Evaluation

# Four images of two classes; the model is wrong about the last.
X = np.linspace(0.2, 0.5, 4, dtype=np.float32).reshape(4, 1, 1, 1) * np.ones(
    (1, 4, 4, 1)
)
X = X.astype(np.float32)
Y = np.array([0, 0, 1, 1], np.int32)
CLEAN = np.array([True, True, True, False])
FINDING = Finding(Code.ZERO_GRADIENTS, "No gradients.")


def progress(x, broken_by):
    """What attacks `a`, `b`, ... leave: for each image the place of what broke it."""
    book = Progress(x, [chr(ord("a") + place) for place in range(max(broken_by) + 1)])
    book.settle(CLEAN)
    for place in range(len(book.attacks)):
        hit = np.equal(broken_by, place)
        for row in np.flatnonzero(hit):
            book.note(place, Outcome(row, x[row] + 0.1, True))
        book.settle(CLEAN & ~hit)
    book.seconds = 12.5
    return book


def evaluation(**changes):
    """Two attacks on the model, and the first on another model as well."""
    given = {"attacks": ("fgsm", "autoattack"), "epsilons": ("0", "2/255"), **changes}
    settings = AttackSettings(
        dataset="shades",
        model="runs/one/model.keras",
        source_model=("runs/two/model.keras",),
        save_images=True,
        sha256=("ab", "cd"),
        **given,
    )
    classes = np.zeros((1, 1, 1, 1), np.uint8)
    examples = ArrayExamples(classes, Y[:1])
    dataset = ImageDataset("shades", examples, examples, 2, ("dark", "bright"))

    def model(images):
        shade = images[:, 0, 0, 0]
        return tf.stack([0.4 - shade, shade - 0.4], -1)

    right = {
        (0, "fgsm"): [[1, 0, 1, 0], [1, 1, 1, 1]],
        (0, "autoattack"): [[0, 0, 1, 0], [1, 1, 1, 0]],
        (1, "fgsm"): [[1, 1, 0, 0], [0, 0, 1, 0]],
        (1, "autoattack"): [[1, 1, 1, 0], [0, 0, 0, 0]],
    }
    books = {"fgsm": [-1, 0, -1, -1], "autoattack": [1, 0, -1, -1]}
    crafted = [
        AttackResult(
            source,
            attack,
            Radius("8/255"),
            progress(X, books[attack]),
            [np.array(row, bool) for row in rows],
        )
        for (source, attack), rows in right.items()
    ]
    crafted += [
        AttackResult(0, attack, Radius("2/255"), progress(X, books["fgsm"]), [CLEAN])
        for attack in books
    ]
    classifier = BatchedClassifier(model, (4, 4, 1), 4)
    probed = Probed([FINDING], np.zeros(4, bool))
    return Evaluation(settings, dataset, X, Y, CLEAN, classifier, crafted, probed)
