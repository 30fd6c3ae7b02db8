from support.processes import (
    assert_is_one_error,
    fork_small_searches,
    kill_with_children,
    launch,
)


def _rows(*flags):
    """The cells of each row of the table of a small benchmark."""
    flags = ["--init_channels=2", "--num_cells=1", "--image_size=8", *flags]
    flags = ["--repeats=1", "--batch_size=4", *flags]
    result = launch("benchmark", *flags, prepare=fork_small_searches)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_a_table_of_a_search():
    rows = _rows("--part=search")
    steps = ["weights", "alphas", "penalised alphas"]
    assert [row[:2] for row in rows] == [["search", step] for step in steps]
    assert all(float(value) > 0 for row in rows for value in row[3:])


def test_a_table_of_a_fit_that_saves_memory():
    rows = _rows("--part=fit", "--recompute_cells=true")
    steps = [f"{kind}, recomputed" for kind in ("input gradient", "standard", "pgd")]
    assert [row[:2] for row in rows] == [["fit", step] for step in steps]
    nodes = [int(row[2].replace(",", "")) for row in rows]
    # The attack is a loop, not as many copies of the network as it has steps.
    assert nodes[2] < nodes[1] + 2 * nodes[0]


def test_a_killed_benchmark_leaves_no_process_behind():
    kill_with_children("benchmark", "--part=search", "--repeats=1000000")


def test_penalties_that_do_not_divide_the_batch():
    result = launch("benchmark", "--part=search", "--batch_size=4", "--penalty_batch=3")
    assert_is_one_error(result, "--penalty_batch is 3; it must be 0 or a divisor")


def test_where_the_time_of_a_fit_goes():
    flags = "--part=fit", "--init_channels=2", "--num_cells=1", "--image_size=8"
    flags = *flags, "--batch_size=4", "--operations"
    options = {"optimised": True, "prepare": fork_small_searches}
    result = launch("benchmark", *flags, **options)
    assert result.returncode == 0, result.stderr
    for step in ("input gradient", "standard", "pgd"):
        assert f"fit, {step}\n" in result.stdout
    assert "| attack's forward | Conv2D |" in result.stdout


def test_operations_of_what_xla_compiles():
    result = launch("benchmark", "--part=fit", "--operations", "--jit_compile")
    assert_is_one_error(result, "--operations cannot look into what --jit_compile")
