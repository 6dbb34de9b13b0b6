from experiments.tables import number, observation_lines, remarks


def test_numbers():
    assert number(0.12345) == "0.12"
    assert number(0.12345, 3) == "0.123"
    assert number(None) == "-"


def record(**changes):
    base = {"claim": "branches specialize", "threshold": 0.5, "networks": 5}
    base |= {"value": 0.75, "control": None, "holds": True}
    return base | {"reason": None, "regime": None} | changes


def test_a_line_for_each_observation():
    observations = {
        "1": record(),
        "2": record(value=0.25, control=0.1, holds=None, reason="too few"),
        "3": record(holds=None, regime="more decay"),
        "4": record(networks=1, holds=None),
    }
    heading, *lines = observation_lines(observations, ("value", "control"))
    assert heading.split() == ["observation", "value", "control", "limit"]
    first, second, why, third, needs, fourth = lines
    assert first.split()[-4:] == ["0.750", "-", "0.5", "holds"]
    assert second.split()[-4:] == ["0.250", "0.100", "0.5", "undecided"]
    assert why.strip() == "(too few)"
    assert third.endswith("not tested in the paper's regime")
    assert needs.strip() == "(it needs more decay)"
    assert fourth.endswith("one network")
    one = observation_lines(observations, ("value",), verdicts=False)
    assert [line.split()[-1] for line in one[1:]] == ["0.5"] * 4
    end = heading.index("value") + len("value")
    assert [line[:end].split()[-1] for line in (first, second)] == ["0.750", "0.250"]


def test_a_verdict_that_the_paper_s_measure_does_not_share_is_named():
    uncentred = {"value": 0.1, "holds": False, "agrees": False}
    assert remarks(record(uncentred=uncentred)) == (
        "with constant outputs: does not hold"
    )
    both = record(uncentred=uncentred, holds=None, reason="too few")
    assert remarks(both) == "too few; with constant outputs: does not hold"
    assert remarks(record(uncentred=uncentred | {"agrees": True})) == ""
