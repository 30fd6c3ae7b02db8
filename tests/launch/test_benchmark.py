from support.processes import assert_is_one_error, kill_with_children, launch


def test_a_table_of_all_parts():
    flags = ["--init_channels=2", "--num_cells=1", "--image_size=8", "--repeats=1"]
    result = launch("benchmark", *flags, "--batch_size=4")
    assert result.returncode == 0, result.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in result.stdout.splitlines()
    ]
    steps = ["weights", "alphas", "penalised alphas"]
    fit = ["input gradient", "standard", "pgd"]
    expected = [
        [part, kind]
        for part, kinds in (("search", steps), ("fit", fit))
        for kind in kinds
    ]
    assert [row[:2] for row in rows[2:]] == expected
    nodes = [int(row[2].replace(",", "")) for row in rows[2:]]
    # The attack is a loop, not as many copies of the network as it has steps.
    assert nodes[5] < nodes[4] + 2 * nodes[3]
    assert all(float(value) > 0 for row in rows[2:] for value in row[3:])


def test_rows_that_save_memory():
    flags = ["--init_channels=2", "--num_cells=1", "--image_size=8", "--repeats=1"]
    flags += ["--part=fit", "--recompute_cells=true"]
    result = launch("benchmark", *flags, "--batch_size=4")
    assert result.returncode == 0, result.stderr
    steps = [line.split(" | ")[1] for line in result.stdout.splitlines()[2:]]
    kinds = "input gradient", "standard", "pgd"
    assert steps == [f"{kind}, recomputed" for kind in kinds]


def test_a_killed_benchmark_leaves_no_process_behind():
    kill_with_children("benchmark", "--part=search", "--repeats=1000000")


def test_penalties_that_do_not_divide_the_batch():
    result = launch("benchmark", "--part=search", "--batch_size=4", "--penalty_batch=3")
    assert_is_one_error(result, "--penalty_batch is 3; it must be 0 or a divisor")
