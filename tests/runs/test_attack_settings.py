import pytest

from advrush_tf.errors import UserError
from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.recipes import fit_settings
from advrush_tf.runs.study_settings import StudySettings


def test_defaults_are_the_usual_evaluation():
    settings = AttackSettings(model="m.keras")
    assert settings.attacks == ("fgsm", "pgd20", "autoattack")
    assert settings.curve == [settings.epsilon] == [8 / 255]


def test_the_curve_ascends_and_holds_the_epsilon_once():
    settings = AttackSettings(
        model="m.keras", epsilon="8/255", epsilons=("0", "16/255", "0.01", "16/510")
    )
    # 16/510 is 8/255.
    assert list(map(str, settings.curve)) == ["0.01", "8/255", "16/255"]
    assert settings.to_dict()["epsilons"] == ["0", "16/255", "0.01", "16/510"]
    assert AttackSettings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize("text", ["8/255", "8.0/255", "8 / 255", 8 / 255])
def test_radii_of_all_runs_may_be_written_so(text):
    made = (
        AttackSettings("m.keras", epsilon=text, epsilons=("0", text)),
        LandscapeSettings(("m.keras",), epsilon=text),
        StudySettings(epsilon=text),
        fit_settings(epsilon=text),
    )
    assert [settings.epsilon for settings in made] == [8 / 255] * 4
    assert made[0].curve == [8 / 255]


def test_l2_radii_have_no_limit():
    settings = AttackSettings("m.keras", norm="L2", epsilon="3", epsilons=("0.5", "2"))
    assert settings.curve == [0.5, 2.0, 3.0]
    study = StudySettings(attack={"norm": "L2"}, epsilon="2")
    assert study.attack_settings("m.keras", 0).epsilon == 2
    # Fits and cuts are of the other norm.
    assert study.fit_settings("pgd", "ADVRUSH", 0).epsilon == fit_settings().epsilon
    assert study.landscape_settings("m.keras", 0).epsilon == 8 / 255
    with pytest.raises(UserError, match="--epsilon is 2; it must be at most 1 in Linf"):
        StudySettings(epsilon="2")
    with pytest.raises(UserError, match="--epsilon is inf; it must be 1e-06 or more"):
        StudySettings(attack={"norm": "L2"}, epsilon="inf")


def test_a_step_keeps_its_share_of_other_radii():
    settings = AttackSettings("m.keras", epsilon=0.1, step_size=0.02)
    assert settings.step_size_at(0.05) == pytest.approx(0.01)
    assert AttackSettings("m.keras").step_size_at(0.05) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "l3"}, "--norm: norm must be one of 'Linf', 'L2', not 'l3'"),
        ({"model": ""}, "--model is"),
        ({"source_model": ("m.keras",)}, "--source_model"),
        ({"attacks": ()}, "--attacks is none; it must be at least one"),
        ({"attacks": ("fgsm", "fgsm")}, "--attacks"),
        ({"attacks": ("pgd0",)}, "no attack 'pgd0'"),
        ({"attacks": ("fgsm", "cw")}, "--attacks=cw: norm must be L2, not Linf"),
        ({"epsilon": "1e-46"}, "--epsilon is 1e-46; it must be 1e-06 or more"),
        ({"source_model": ("./m.keras",)}, "--source_model"),
        *(
            ({"epsilons": ("0", wrong)}, f"--epsilons is 0,{wrong}; it must be diff")
            for wrong in ("x", "8/0", "nan", "-8/255", "1e-46")
        ),
        ({"epsilon": "x"}, "--epsilon is x; it must be .*fraction such as 8/255"),
        ({"epsilon": "300/255"}, "--epsilon is 300/255; it must be at most 1 in Linf"),
        ({"epsilons": ("0", "2")}, "--epsilons is 0,2; it must be at most 1 in Linf"),
        ({"epsilon": "inf", "norm": "L2"}, "--epsilon is inf"),
        (
            {"norm": "L2"},
            "--epsilon is 8/255; it must be a usual radius of L2",
        ),
        ({"step_size": 0.0}, "--step_size is 0.0; it must be more than 0"),
        ({"step_size": 0.1}, "at most epsilon, 8/255, not 0.1"),
        (
            {"step_size": 0.01, "attacks": ("autoattack",)},
            "--step_size is 0.01; it must be left out without pgd, bim, mim",
        ),
        ({"epsilons": ("1/2", "0.5")}, "--epsilons is 1/2,0.5; it must be different"),
        ({"test_images": -1}, "--test_images"),
        ({"batch_size": 0}, "--batch_size"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_what_is_out_of_range_is_named(changes, words):
    with pytest.raises(UserError, match=words):
        AttackSettings(**({"model": "m.keras"} | changes))


def test_a_step_is_never_longer_than_its_radius():
    for radius in range(1, 33):
        given = {"epsilon": "3/255", "step_size": 3 / 255, "attacks": ("pgd20",)}
        settings = AttackSettings("m.keras", epsilons=(f"{radius}/255",), **given)
        step = settings.step_size_at(radius / 255)
        assert step == pytest.approx(radius / 255) and step <= radius / 255
