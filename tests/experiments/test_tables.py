from experiments.tables import number, observation_lines


def test_numbers():
    assert number(0.12345) == "0.12"
    assert number(0.12345, 3) == "0.123"
    assert number(None) == "-"


def test_a_line_for_each_observation():
    claim = {"claim": "branches specialize", "threshold": 0.5}
    observations = {
        "1": {**claim, "value": 0.75, "control": None, "holds": True},
        "2": {**claim, "value": 0.25, "control": 0.1, "holds": None},
    }
    heading, *lines = observation_lines(observations, ("value", "control"))
    assert heading.split() == ["observation", "value", "control", "limit"]
    assert [line.split()[-4:] for line in lines] == [
        ["0.750", "-", "0.5", "holds"],
        ["0.250", "0.100", "0.5", "undecided"],
    ]
    one = observation_lines(observations, ("value",), verdicts=False)
    assert [line.split()[-1] for line in one[1:]] == ["0.5", "0.5"]
    end = heading.index("value") + len("value")
    assert [line[:end].split()[-1] for line in lines] == ["0.750", "0.250"]
