import pytest

from support.processes import assert_is_one_error, launch


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--entries=advrush,NO_SUCH"], "--entries: No genotype 'NO_SUCH'"),
        (["--seeds=0"], "--seeds is 0; it must be more than 0"),
        (["--search_epochs=0"], "--search_epochs is 0"),
        (
            ["--fit_step_size=0.1", "--objectives=standard"],
            "--fit_step_size has no use with --objective=standard",
        ),
        (["--attacks=fgsm,foo"], "--attacks=foo: there is no attack"),
        (["--entries=ADVRUSH", "--select=2"], "--select is 2; it must be 1, as no"),
        (
            [
                *("--dataset=digits", "--landscape_top=65", "--image_size=8"),
                *("--landscape_lanczos_steps=65", "--entries=random"),
            ],
            "--landscape_top is 65; it must be 64 or less",
        ),
        (["--search_gamma=0"], "--entries is advrush,darts,random; it must be without"),
        (
            ["--dataset=digits", "--image_size=4", "--entries=ADVRUSH"],
            "at least 8x8 pixels",
        ),
        (
            ["--dataset=digits", "--image_size=4", "--entries=ADVRUSH", "--dry_run"],
            "at least 8x8 pixels",
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, words, tmp_path):
    workdir = tmp_path / "study"
    result = launch("study", f"--workdir={workdir}", *arguments)
    assert_is_one_error(result, words)
    assert not workdir.exists()
