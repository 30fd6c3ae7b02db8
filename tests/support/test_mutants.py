from support.mutants import ROOT, read_mutants


def test_each_mutant_still_fits_the_code():
    for mutant in read_mutants():
        text = (ROOT / "advrush_tf" / mutant.file).read_text("utf-8")
        assert text.count(mutant.old) == 1, mutant.name
        assert mutant.old != mutant.new
        for name in mutant.tests.split():
            path, _, test = name.partition("::")
            assert f"def {test}" in (ROOT / "tests" / path).read_text("utf-8")
