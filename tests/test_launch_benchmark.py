from processes import launch


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
        for part, kinds in (("search", steps), ("per_edge", steps), ("fit", fit))
        for kind in kinds
    ]
    assert [row[:2] for row in rows[2:]] == expected
    nodes = [int(row[2].replace(",", "")) for row in rows[2:]]
    assert all(
        batched < single for batched, single in zip(nodes[:3], nodes[3:6], strict=True)
    )
    # The attack is a loop, not as many copies of the network as it has steps.
    assert nodes[8] < nodes[7] + 2 * nodes[6]
    assert all(float(value) > 0 for row in rows[2:] for value in row[3:])
