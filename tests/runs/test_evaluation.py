import dataclasses
import importlib.metadata
import json

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.attacks.sanity_checks import Code
from advrush_tf.attacks.sanity_probes import Probed
from advrush_tf.runs.evaluation import as_json
from advrush_tf.runs.evaluation_report import markdown
from advrush_tf.statistics import wilson
from support.evaluations import evaluation


@pytest.fixture(scope="module")
def results():
    return as_json(evaluation())


def test_the_headline_is_right_before_and_after_every_attack(results):
    assert results["clean"] == {"accuracy": 0.75, "interval": list(wilson(3, 4))}
    # The third image survives the model's own attacks, not the transferred one.
    assert results["robust"]["accuracy"] == 0.0
    assert results["robust"]["interval"] == list(wilson(0, 4))
    assert results["robust"]["per_class"] == {"dark": 0.0, "bright": 0.0}
    assert results["images"] == 4
    assert results["epsilon"] == {"given": "8/255", "value": 8 / 255}
    assert results["norm"] == "Linf"
    assert results["settings"]["sha256"] == ["ab", "cd"]
    assert results["versions"]["keras"] == importlib.metadata.version("keras")
    assert json.loads(json.dumps(results)) == results


def test_the_split_is_the_one_that_was_used(results):
    assert results["split"] == "test"
    evaluated = evaluation()
    dataset = dataclasses.replace(evaluated.dataset, test_split="validation")
    validated = as_json(dataclasses.replace(evaluated, dataset=dataset))
    assert validated["split"] == "validation"
    assert "4 images of the validation split" in markdown(validated)


def test_attacks_tell_their_accuracy_after_each_member(results):
    fgsm, autoattack, *_ = results["attacks"]
    assert fgsm["accuracy"] == 0.5
    assert fgsm["broken_by"] == [None, "a", None, "clean"]
    assert [m["accuracy"] for m in autoattack["members"]] == [0.5, 0.25]
    assert [m["broken"] for m in autoattack["members"]] == [1, 1]
    assert autoattack["broken_by"] == ["b", "a", None, "clean"]
    assert autoattack["interval"] == list(wilson(1, 4))
    assert autoattack["seconds"] == 12.5
    assert results["attacks"][2]["crafted_on"] == "runs/two/model.keras"
    assert results["attacks"][-1]["epsilon"]["given"] == "2/255"


def test_attacks_with_steps_name_their_size(results):
    assert [a["step_size"] for a in results["attacks"]] == [None] * 6
    evaluated = evaluation(attacks=("pgd20",), epsilons=(), step_size=0.01)
    evaluated.crafted[:] = [
        dataclasses.replace(crafted, attack="pgd20")
        for crafted in evaluated.crafted
        if crafted.attack == "fgsm"
    ]
    sizes = [attack["step_size"] for attack in as_json(evaluated)["attacks"]]
    # Of the evaluation's epsilon, twice, and of a quarter of it.
    assert sizes == pytest.approx([0.01, 0.01, 0.0025])


def test_the_probe_and_logits_of_broken_images_give_doubts():
    evaluated = evaluation()
    probed = Probed([], np.array([True] * 4))
    codes = [f.code for f in dataclasses.replace(evaluated, probed=probed).findings]
    # No image is robust that the probe could break.
    assert Code.PROBE_WINS not in codes
    own = [crafted for crafted in evaluated.crafted if not crafted.source]
    changed = dataclasses.replace(evaluated, probed=probed, crafted=own)
    assert Code.PROBE_WINS in [finding.code for finding in changed.findings]

    def model(images):
        return tf.fill((images.shape[0], 2), float("nan"))

    broken = dataclasses.replace(
        evaluated, classifier=BatchedClassifier(model, (4, 4, 1), 4)
    )
    sentences = [f.sentence for f in broken.findings if f.code is Code.NOT_FINITE]
    assert [s.count("images under fgsm") for s in sentences] == [1, 0]

    for crafted in own:
        crafted.progress.bad_gradients = 2 * (crafted.attack == "autoattack")
    again = dataclasses.replace(changed)
    sentences = [f.sentence for f in again.findings if f.code is Code.NOT_FINITE]
    assert [s.startswith("During autoattack the model's") for s in sentences] == [True]


def test_transfer_has_a_row_a_source_and_a_column_a_target(results):
    matrices = results["transfer"]["matrices"]
    assert matrices["fgsm"] == [[0.5, 1.0], [0.5, 0.25]]
    assert matrices["autoattack"] == [[0.25, 0.75], [0.75, 0.0]]


def test_warnings_are_the_findings_on_the_model_and_the_outcome(results):
    codes = [warning["code"] for warning in results["warnings"]]
    assert codes == ["zero_gradients", "few_images"]


def test_findings_on_the_outcome_look_at_these_numbers():
    evaluated = evaluation()
    # A transferred image was broken that no gradient attack broke.
    broken, blind = evaluated._broken_by_attack()
    assert blind == {"fgsm on model 1", "autoattack on model 1"}
    assert broken["fgsm on model 1"].tolist() == [False, False, True, False]
    assert "fgsm: a" not in broken
    assert broken["autoattack: b"].tolist() == [True, False, False, False]
    # In the smaller ball the model is right about as many images as without.
    radii, right = evaluated.curve("fgsm")
    assert radii == [0.0, 2 / 255, 8 / 255]
    assert [each.mean() for each in right] == [0.75, 0.75, 0.5]
